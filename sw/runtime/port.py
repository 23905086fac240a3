"""A serial port as the link's transport."""

import re
import termios

import serial

from zeroskip.sw.errors import BadInput, LinkError

BAUD = 1_000_000

_CUT = (serial.SerialException, OSError, termios.error)


class SerialPort:
    """A port of the system, or any URL that pyserial opens, as
    :class:`zeroskip.sw.runtime.link.Transport`.

    Raises BadInput where there is no such port or another program has it, and
    LinkError later, when the line is cut.
    """

    def __init__(self, name: str, baud: int = BAUD):
        self.name = name
        # of a URL nothing can be locked
        locked = {} if "://" in name else {"exclusive": True}
        try:
            self._port = serial.serial_for_url(name, baud, timeout=0, write_timeout=10, **locked)
        except (serial.SerialException, LookupError, ValueError, re.error) as error:
            raise BadInput(f"{name} cannot be opened ({_reason(error)}); give the port of a board "
                           "that no other program uses") from None

    def write(self, data: bytes) -> None:
        """Sends bytes."""
        try:
            self._port.write(data)
        except _CUT as error:
            raise self._cut(error) from None

    def read(self, timeout: float) -> bytes:
        """Bytes that have come; if there are none, waits ``timeout`` seconds for the first."""
        try:
            self._port.timeout = timeout
            first = self._port.read(1)
            self._port.timeout = 0
            return first + self._port.read(self._port.in_waiting) if first else b""
        except _CUT as error:
            raise self._cut(error) from None

    def close(self) -> None:
        """Closes the port."""
        self._port.close()

    def _cut(self, error) -> LinkError:
        return LinkError(f"the connection at {self.name} was lost ({_reason(error)}); plug the "
                         "board in and run the command again")


def _reason(error) -> str:
    """What the system said, on one line."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()).rstrip(".")
