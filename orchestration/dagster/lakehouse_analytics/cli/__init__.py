"""The command line `lakehouse`."""

from lakehouse_analytics.cli.commands import main as main
