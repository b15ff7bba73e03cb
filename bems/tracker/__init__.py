"""The domain, pure: what events mean, what to wait for, when to raise an alert."""
