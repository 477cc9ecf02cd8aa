"""How much of a job's log one tail is worth, and what is left of that. Pure, as the cutting is."""

from __future__ import annotations

from dataclasses import dataclass

from agentray.core.job_log import MAX_MESSAGE_SIZE, Frame


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What a tail is worth, at most; None: any number.

    Attributes:
        max_lines: of the log.
        max_bytes: of the log.
        max_messages: frames with lines.
        max_message_size: characters of one frame.
    """

    max_lines: int | None = None
    max_bytes: int | None = None
    max_messages: int | None = None
    max_message_size: int = MAX_MESSAGE_SIZE


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of the limits of a tail."""

    lines: int | None
    bytes: int | None
    messages: int | None

    @classmethod
    def of(cls, limits: StreamLimits) -> Allowance:
        """Return what there is at the beginning."""
        return cls(limits.max_lines, limits.max_bytes, limits.max_messages)

    @property
    def spent(self) -> str | None:
        """The limit that is reached, None while none is."""
        if self.lines == 0:
            return "max_lines"
        if self.bytes == 0:
            return "max_bytes"
        return "max_messages" if self.messages == 0 else None

    @property
    def unlimited(self) -> bool:
        """Whether nothing is limited."""
        return self.lines is None and self.bytes is None and self.messages is None

    def of_data(self, data: bytes) -> tuple[bytes, bool]:
        """Return the part of bytes that is allowed, and whether it is less than all."""
        allowed = data if self.bytes is None else data[: self.bytes]
        if self.lines is not None:
            at = -1
            for _ in range(self.lines):
                at = allowed.find(b"\n", at + 1)
                if at < 0:
                    break
            else:
                allowed = allowed[: at + 1]
        # At the very limit nothing may follow, so a line without its end is complete there.
        whole = len(allowed) < len(data) or (self.bytes is not None and len(data) == self.bytes)
        return allowed, whole

    def of_frames(self, frames: list[Frame]) -> list[Frame]:
        """Return the frames that are allowed."""
        return frames if self.messages is None else frames[: self.messages]

    def after(self, frames: list[Frame], begin: int) -> Allowance:
        """Return what is left when these frames were sent, of bytes from `begin` on."""
        if self.unlimited or not frames:
            return self
        return Allowance(
            None if self.lines is None else self.lines - sum(frame.lines for frame in frames),
            None if self.bytes is None else self.bytes - (frames[-1].next - begin),
            None if self.messages is None else self.messages - len(frames),
        )
