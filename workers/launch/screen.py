"""What a watcher is shown: workers' output and journals, read back from the run folder, wherever they come from."""

from __future__ import annotations

from dagrad_bus.workers.launch.folder import RunFolder
from dagrad_bus.workers.launch.journal import LONGEST_LINE, Record, Tail
from dagrad_bus.workers.launch.outcome import Watcher, Worker


class Screen:
    """Follows the files of all workers, those that join by themselves included.

    Args:
        folder: of the run.
        watcher: is shown everything.
        split: stderr has files of its own.
        returning: what workers printed so far was shown by an earlier launcher.
    """

    def __init__(self, folder: RunFolder, watcher: Watcher, *, split: bool, returning: bool = False) -> None:
        self.watcher = watcher
        self.workers: dict[str, Worker] = {}
        """Those that were launched, by name."""
        self._folder = folder
        self._split = split
        self._returning = returning
        self._tails: dict[str, list[Tail]] = {}
        self._journals: dict[str, Tail] = {}
        self._guests: dict[str, Worker] = {}
        """Workers that joined later, as their journals show."""

    def add(self, name: str) -> Worker:
        """Follow one worker more."""
        folder = self._folder
        worker = self.workers[name] = Worker(name, Record(name))
        paths = [folder.log(name), folder.errors(name)] if self._split else [folder.log(name)]
        self._tails[name] = [Tail(path, longest=LONGEST_LINE, skip=self._returning) for path in paths]
        self._journals[name] = Tail(folder.journal(name))
        self._guests.pop(name, None)
        return worker

    def look(self, *, final: bool) -> None:
        """Show what has come since the last look; with ``final`` all that is left."""
        for name, tails in self._tails.items():
            for tail in tails:
                for line in tail.read_lines(final=final):
                    text = line.decode(errors="replace").rstrip("\r")
                    self.watcher.show_line(name, text.rpartition("\r")[2])  # of a progress bar the last state
        self._meet_guests()
        for name, worker in {**self.workers, **self._guests}.items():
            for line in self._journals[name].read_lines(final=final):
                worker.record.add(line, keep=False)
        self.watcher.show_workers([*self.workers.values(), *self._guests.values()], final=final)

    def has_seen_anything(self) -> bool:
        """Whether any worker has printed or written something."""
        printed = any(path.stat().st_size for name in self.workers if (path := self._folder.log(name)).exists())
        return printed or any(worker.record.start or worker.record.last for worker in self.workers.values())

    def _meet_guests(self) -> None:
        """Notice the journals of workers that nobody launched here."""
        for path in sorted((self._folder.path / "workers").glob("*.jsonl")):
            if path.stem not in self._journals:
                self._journals[path.stem] = Tail(path)
                self._guests[path.stem] = Worker(path.stem, Record(path.stem), joined=True)
                self.watcher.show_note(f"{path.stem} joined the run")
