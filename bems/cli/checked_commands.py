"""Commands that report every invalid option and argument at once."""

from collections.abc import Sequence

import click


class UsageErrors(click.UsageError):
    """Several usage errors of one command."""

    def __init__(self, errors: Sequence[click.UsageError]) -> None:
        super().__init__("\n".join(one.format_message() for one in errors))
        self.errors = errors


class CheckedCommand(click.Command):
    """A command that reports every usage error; click itself stops at the first."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, list(args))
        except click.UsageError as first:
            errors = self._find_errors(ctx, args)
            if len(errors) > 1:
                raise UsageErrors(errors) from first
            raise

    def _find_errors(self, ctx: click.Context, args: list[str]) -> list[click.UsageError]:
        errors: list[click.UsageError] = []
        try:
            given, rest, _ = self.make_parser(ctx).parse_args(list(args))
        except click.UsageError as unreadable:
            return [unreadable]
        for parameter in self.get_params(ctx):
            try:
                _, rest = parameter.handle_parse_result(ctx, given, rest)
            except click.UsageError as mistake:
                errors.append(mistake)
        return errors


class CheckedGroup(click.Group):
    """A group of checked commands."""

    command_class = CheckedCommand
