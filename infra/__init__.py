"""CDK constructs of a cell on AWS: one module for each capability, one stack for each cell.

Synthesis makes every decision; nothing depends on parameters at deployment, except for the secret URLs of webhooks.
"""
