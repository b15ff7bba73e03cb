"""Script that synthesizes cells for the emulator, into the folder CDK_OUTDIR: `example` or `combinations`.

`example` is the cell us-east of the example of `cells.yaml`; `combinations` are those of `tests.infra.combinations`.

The emulator's Firehose needs DuckDB to write Iceberg tables. The stream therefore writes to its error bucket instead,
which makes no difference to the recorder.
"""

import json
import sys
from pathlib import Path

from aws_cdk import App
from aws_cdk import aws_kinesisfirehose as firehose

from bems.tracker.config import read_cells
from infra.cell import CellStack
from infra.common.profile import PROFILE
from infra.guards.rule_aspect import add_rules
from tests.infra.combinations import CELLS

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "reference" / "cells-example.yaml"


def write_rows_to_the_bucket(stack: CellStack) -> None:
    """Make the stack's Firehose stream write rows as objects under `rows/` in its error bucket."""
    for node in stack.node.find_all():
        if isinstance(node, firehose.CfnDeliveryStream):
            iceberg = node.iceberg_destination_configuration
            assert isinstance(iceberg, firehose.CfnDeliveryStream.IcebergDestinationConfigurationProperty)
            bucket = iceberg.s3_configuration
            assert isinstance(bucket, firehose.CfnDeliveryStream.S3DestinationConfigurationProperty)
            node.add_property_deletion_override("IcebergDestinationConfiguration")
            node.add_property_override(
                "ExtendedS3DestinationConfiguration",
                {"BucketARN": bucket.bucket_arn, "RoleARN": bucket.role_arn, "Prefix": "rows/"},
            )


if __name__ == "__main__":
    context = json.loads((ROOT / "cdk.json").read_text())["context"]
    app = App(analytics_reporting=False, context={**context, PROFILE: "emulator"})
    example = {cell.name: cell for cell in read_cells(EXAMPLE.read_text(), EXAMPLE.name).cells}
    for cell in {"example": [example["us-east"]], "combinations": CELLS}[sys.argv[1]]:
        write_rows_to_the_bucket(CellStack(app, cell))
    add_rules(app)
    app.synth()
