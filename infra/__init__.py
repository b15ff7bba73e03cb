"""CDK constructs of a cell on AWS: one module for each capability, one stack for each cell.

Synthesis makes every decision; templates contain no CloudFormation conditions.
"""
