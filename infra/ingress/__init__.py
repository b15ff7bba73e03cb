"""API Gateway and its firewall."""
