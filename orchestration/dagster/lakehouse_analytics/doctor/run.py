"""Runs the probes, each in its own thread, as soon as the probes that it needs have ended, and with a time limit.

Threads of probes that hang are left running until the process ends.
"""

from __future__ import annotations

import importlib
import logging
import queue
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress

from lakehouse_analytics.doctor.probe import (
    FailedError,
    Finding,
    Probe,
    ProbeContext,
    Result,
    Status,
    failed,
    skipped,
    unchecked,
)


class Run:
    """One run of doctor.

    Args:
        probes: The probes in the order of the report. Each follows those that it needs.
        context: The state that the probes share.
        mask: Replaces secrets in a text.
    """

    def __init__(self, probes: Sequence[Probe], context: ProbeContext, mask: Callable[[str], str]) -> None:
        self._probes, self._context, self._mask = probes, context, mask
        self._answers: queue.SimpleQueue[tuple[str, Finding]] = queue.SimpleQueue()
        self._began: dict[str, float] = {}
        self._results: dict[str, Result] = {}
        #: Why a probe did not run: the probes that failed or were skipped.
        self._causes: dict[str, list[str]] = {}
        #: Probes that have answered, in time or late.
        self._answered: set[str] = set()

    @property
    def hangs(self) -> bool:
        """Whether a probe has not answered yet. Its thread may not end."""
        return not self._began.keys() <= self._answered

    def results(self) -> Iterator[Result]:
        """Yield the result of each probe, in the order of the probes, as soon as it is available."""
        for probe in self._probes:
            while probe.name not in self._results:
                self._start_ready()
                if probe.name not in self._results:
                    self._wait()
            yield self._results[probe.name]

    def load(self) -> None:
        """Import the modules that probes need, before their time starts, and never in two threads at once."""
        for probe in self._probes:
            for module in probe.imports() if probe.name not in self._context.left_out else ():
                with suppress(ImportError):  # the probe itself reports it
                    importlib.import_module(module)

    def _start_ready(self) -> None:
        for probe in self._probes:
            if probe.name in self._began or probe.name in self._results:
                continue
            if probe.name in self._context.left_out:
                self._end(probe.name, skipped("left out (--skip)"))
                self._causes[probe.name] = [f"{probe.name} is left out"]
            elif self._waits_for(probe.needs + probe.after):
                continue
            elif not_ok := [name for name in probe.needs if self._results[name].status is not Status.OK]:
                causes = [cause for name in not_ok for cause in self._causes.get(name, [self._ending(name)])]
                self._causes[probe.name] = list(dict.fromkeys(causes))
                message = f"not checked, because {' and '.join(self._causes[probe.name])}"
                # Probes that did not run only because of --skip are skipped, not unchecked.
                wanted = all(self._results[name].status is Status.SKIPPED for name in not_ok)
                self._end(probe.name, skipped(message) if wanted else unchecked(message))
            else:
                self._began[probe.name] = time.monotonic()
                threading.Thread(
                    target=self._run_probe, args=(probe,), name=f"doctor: {probe.name}", daemon=True
                ).start()

    def _ending(self, name: str) -> str:
        return f"{name} failed" if self._results[name].status is Status.FAILED else f"{name} was not checked"

    def _waits_for(self, names: Collection[str]) -> bool:
        return any(name not in self._results for name in names)

    def _run_probe(self, probe: Probe) -> None:
        try:
            finding = probe.run(self._context)
        except FailedError as error:
            finding = error.finding
        except Exception as error:
            finding = _unexpected(error)
        self._answered.add(probe.name)  # the thread itself ends a moment later than its answer is read
        self._answers.put((probe.name, finding))

    def _wait(self) -> None:
        running = [name for name in self._began if name not in self._results]
        end = {name: self._began[name] + self._context.timeout for name in running}
        try:
            name, finding = self._answers.get(timeout=max(0.0, min(end.values()) - time.monotonic()))
        except queue.Empty:
            name = min(running, key=end.__getitem__)
            advice = next(probe.timeout_advice for probe in self._probes if probe.name == name)
            finding = failed(
                f"no answer within {self._context.timeout:g} s", f"{advice} --timeout sets a longer limit."
            )
        if name not in self._results:  # it may be the late answer of a probe that timed out
            self._end(name, finding)

    def _end(self, name: str, finding: Finding) -> None:
        now = time.monotonic()
        seconds = now - self._began.get(name, now)
        message, fix = self._mask(finding.message), self._mask(finding.fix)
        self._results[name] = Result(name, finding.status, message, fix, round(seconds, 2))


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress log messages and warnings of libraries, so that they do not appear in the report."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def _unexpected(error: Exception) -> Finding:
    line = next(iter(str(error).strip().splitlines()), "")
    return failed(
        f"{type(error).__name__}: {line}" if line else type(error).__name__,
        "This error is not recognized. Before you post it, read SECURITY.md: it may describe your systems.",
    )
