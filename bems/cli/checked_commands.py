"""Commands that tell everything that is wrong with their options and arguments at once."""

from collections.abc import Sequence

import click


class UsageErrors(click.UsageError):
    """More than one thing is wrong with what was given."""

    def __init__(self, several: Sequence[click.UsageError]) -> None:
        super().__init__("\n".join(one.format_message() for one in several))
        self.errors = several


class CheckedCommand(click.Command):
    """A command of click's, which by itself tells of the first mistake only."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, list(args))
        except click.UsageError as first:
            several = self._find_mistakes(ctx, args)
            if len(several) > 1:
                raise UsageErrors(several) from first
            raise

    def _find_mistakes(self, ctx: click.Context, args: list[str]) -> list[click.UsageError]:
        several: list[click.UsageError] = []
        try:
            given, rest, _ = self.make_parser(ctx).parse_args(list(args))
        except click.UsageError as unreadable:
            return [unreadable]
        for parameter in self.get_params(ctx):
            try:
                _, rest = parameter.handle_parse_result(ctx, given, rest)
            except click.UsageError as mistake:
                several.append(mistake)
        return several


class CheckedGroup(click.Group):
    """A group of such commands."""

    command_class = CheckedCommand
