"""The cell on AWS, as CDK constructs: one capability a module, one stack a cell, nothing decided at deployment."""
