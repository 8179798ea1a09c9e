"""A visitor without a browser: Streamlit's own messages over its websocket, as the page in a browser sends them.

What a browser adds (drawing, its cache of unchanged messages) is left out; of the widgets only the moved one is sent.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

PATIENCE_S = 60.0
ENDS = (ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY)


class LostError(Exception):
    """The server closed the session, or did not finish a run in time."""


@dataclass(slots=True)
class Visitor:
    """One open tab: the widgets it was sent, its address line, and what went wrong."""

    socket: ClientConnection
    query: str = ""
    page: str = ""
    widgets: dict[str, ForwardMsg] = field(default_factory=dict)
    """The last message of each slider and text input, by key."""
    errors: list[str] = field(default_factory=list)
    received_bytes: int = 0

    async def opened(self) -> float:
        """Ask for the first run and return how long it took until the script had finished [s]."""
        return await self._run(BackMsg())

    async def moved(self, key: str, value: float | str) -> float:
        """Set the widget `key` and return how long it took until the script had finished [s]."""
        message = BackMsg()
        element = self.widgets[key].delta.new_element
        state = message.rerun_script.widget_states.widgets.add()
        if element.HasField("text_input"):
            state.id, state.string_value = element.text_input.id, str(value)
        elif element.slider.options:
            state.id = element.slider.id
            state.string_array_value.data.append(str(value))
        else:
            state.id = element.slider.id
            state.double_array_value.data.append(float(value))
        return await self._run(message)

    def steps(self, key: str) -> list[str]:
        """Return the values that the slider `key` offers, as it writes them."""
        return list(self.widgets[key].delta.new_element.slider.options)

    async def _run(self, message: BackMsg) -> float:
        message.rerun_script.query_string = self.query
        message.rerun_script.page_script_hash = self.page
        before_s = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.socket.send(message.SerializeToString())
                while not self._ended(await self.socket.recv(decode=False)):
                    pass
        except (WebSocketException, TimeoutError) as error:
            raise LostError(str(error) or type(error).__name__) from error
        return time.perf_counter() - before_s

    def _ended(self, raw: bytes) -> bool:
        """Take in one message; return whether it says that the script has finished."""
        self.received_bytes += len(raw)
        message = ForwardMsg.FromString(raw)
        kind = message.WhichOneof("type")
        if kind == "delta":
            self._drawn(message)
        elif kind == "page_info_changed":
            self.query = message.page_info_changed.query_string
        elif kind == "navigation":
            self.page = message.navigation.page_script_hash
        elif kind == "script_finished" and message.script_finished == ForwardMsg.FINISHED_WITH_COMPILE_ERROR:
            self.errors.append("the script does not compile")
            return True
        return kind == "script_finished" and message.script_finished in ENDS

    def _drawn(self, message: ForwardMsg) -> None:
        element = message.delta.new_element
        kind = element.WhichOneof("type")
        if kind in {"slider", "text_input"}:
            self.widgets[getattr(element, kind).id.split("-", 2)[-1]] = message
        elif kind == "exception":
            self.errors.append(f"{element.exception.type}: {element.exception.message}")
        elif kind == "alert" and element.alert.format == element.alert.ERROR:
            self.errors.append(element.alert.body)


async def arrived(port: int) -> Visitor:
    """Return a visitor connected to the server at `port`, as soon as it listens."""
    end_s = time.perf_counter() + PATIENCE_S
    while True:
        try:
            socket = await connect(
                f"ws://127.0.0.1:{port}/_stcore/stream", subprotocols=["streamlit"], max_size=None, max_queue=None,  # type: ignore[list-item]
                ping_interval=None, compression=None,
            )  # fmt: skip
            return Visitor(socket)
        except (OSError, WebSocketException) as error:
            if time.perf_counter() > end_s:
                raise LostError(f"no server at port {port}: {error}") from error
            await asyncio.sleep(0.01)
