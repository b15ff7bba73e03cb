"""Rules that refuse a synthesized template."""
