"""An operator's commands by the state folder, without a server: who may write the control log may command.

By a server they go with :meth:`stream_ft.client.Client.control`.
"""

from __future__ import annotations

from datetime import datetime
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from stream_ft.client.errors import CommandRefusedError
from stream_ft.client.results import InForce

if TYPE_CHECKING:
    from stream_ft.config import Settings
    from stream_ft.release.fold import State
    from stream_ft.wiring.operator import Issued


class Control:
    """The control log of one model, as ``stream-ft control`` commands it: the same checks, the same messages.

    Needs write access to the state folder; whether anything runs there does not matter. What is not given comes from
    ``STREAM_FT_*`` in the environment, then from ``config``. Calls read and write files, and take milliseconds.

    Args:
        state_dir: folder of everything that the processes write.
        model: its name. Default ``default``.
        broker: URL of the event log. Default ``sqlite://``: in the state folder.
        operator: name under which commands are issued. Default ``operator``.
        config: settings in TOML.

    Raises:
        ConfigError: a setting cannot be used.
    """

    def __init__(
        self,
        state_dir: str | PathLike[str] | None = None,
        *,
        model: str | None = None,
        broker: str | None = None,
        operator: str | None = None,
        config: str | PathLike[str] | None = None,
    ) -> None:
        from stream_ft.config import load

        given = {
            "state_dir": None if state_dir is None else fspath(state_dir),
            "model.name": model,
            "broker": broker,
            "operator": operator,
        }
        self._settings: Settings = load(None if config is None else Path(config), given)

    def in_force(self) -> InForce:
        """What the control log puts into force now.

        Raises:
            StreamFTError: there is no such folder, or nothing was ever started there.
        """
        from stream_ft.wiring.operator import look

        return _in_force(look(self._settings).state)

    def rollback(
        self,
        *,
        to: str | int = "previous",
        reason: str = "commanded",
        quarantine_source: str | None = None,
        quarantine_since: str | float | datetime | None = None,
    ) -> InForce:
        """Bring an earlier version back at once; the base that is left cannot return by itself.

        Args:
            to: an epoch, a version's name, or ``previous``, which goes further back each time.
            reason: stays on the log.
            quarantine_source: examples of this source train no more, or the harm is learned again.
            quarantine_since: so do those since then: a time with its offset (RFC 3339 or a datetime), or seconds since
                the epoch.

        Raises:
            ConfigError: an argument cannot be used, or the version cannot be had; nothing is appended.
            CommandRefusedError: the log refuses it. The remedy lists what can be had.
        """
        from stream_ft.wiring import commands

        return _taken(
            commands.rollback(
                self._settings,
                to=str(to),
                reason=reason,
                quarantine_source=quarantine_source,
                quarantine_since=quarantine_since,
            )
        )

    def deny(self, sha256: str, *, reason: str = "commanded") -> InForce:
        """Forbid a base for ever; if it is active, the latest one that is not denied comes back.

        Args:
            sha256: of the base; the first 8 digits do.
            reason: stays on the log.

        Raises:
            ConfigError: no base has that name, or what would come back cannot be had; nothing is appended.
            CommandRefusedError: the log refuses it.
        """
        from stream_ft.wiring import commands

        return _taken(commands.deny(self._settings, sha256, reason=reason))

    def label_add(self, label: str) -> InForce:
        """Allow users to introduce a label; the label topic may do so anyway.

        Raises:
            ConfigError: it cannot be a label; nothing is appended.
            CommandRefusedError: the log refuses it.
        """
        from stream_ft.wiring import commands

        return _taken(commands.label_add(self._settings, label))

    def canary(self, version: str | int = "", *, share: float, head: str = "") -> InForce:
        """Let another version answer a share of the users, always the same ones.

        Args:
            version: a version's name, an epoch, or a base, eight digits of its hash or more. Without it, share 0 ends
                the trial, also that of a shadow.
            share: of the keys, 0 to 1.
            head: sha256 of another head than the base's newest; its first 8 digits do.

        Raises:
            ConfigError: there is no such version, or no trial to end; nothing is appended.
            CommandRefusedError: the log refuses it. The remedy lists what can be tried.
        """
        from stream_ft.wiring import commands

        return _taken(commands.canary(self._settings, str(version), share=share, head=head))

    def shadow(self, version: str | int = "", *, share: float = 1.0, head: str = "") -> InForce:
        """Let another version score a share of the requests; its answers are compared and not used.

        Arguments and errors as :meth:`canary`.
        """
        from stream_ft.wiring import commands

        return _taken(commands.shadow(self._settings, str(version), share=share, head=head))

    def pin(self) -> InForce:
        """Keep the active version: no promotion until :meth:`unpin`. Operators may still roll back.

        Raises:
            CommandRefusedError: the log refuses it.
        """
        return self._plain("Pin")

    def unpin(self) -> InForce:
        """Allow promotions again.

        Raises:
            CommandRefusedError: the log refuses it.
        """
        return self._plain("Unpin")

    def pause(self) -> InForce:
        """No rounds and no promotions until :meth:`resume`; events are still taken in.

        Raises:
            CommandRefusedError: the log refuses it.
        """
        return self._plain("Pause")

    def resume(self) -> InForce:
        """Learn again.

        Raises:
            CommandRefusedError: the log refuses it.
        """
        return self._plain("Resume")

    def train_now(self) -> InForce:
        """Start a round without waiting for the schedule.

        Raises:
            CommandRefusedError: the log refuses it.
        """
        return self._plain("TrainNow")

    def _plain(self, kind: str) -> InForce:
        from stream_ft import control
        from stream_ft.wiring import commands

        return _taken(commands.plain(self._settings, getattr(control, kind)))


def _taken(issued: Issued) -> InForce:
    if not issued.accepted:
        raise CommandRefusedError(issued.reason, issued.remedy)
    return _in_force(issued.after.state)


def _in_force(state: State) -> InForce:
    return InForce(version=state.version, epoch=state.epoch, pinned=state.pinned, paused=state.paused)
