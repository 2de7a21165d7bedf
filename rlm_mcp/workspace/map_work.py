"""Work on items of maps of `parallel_map` whose code waits in other processes, with the contexts of one owner."""

from collections.abc import Awaitable, Callable

from rlm_mcp.concurrency import run_in_thread
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.errors import RlmError
from rlm_mcp.packages.library import folder_of
from rlm_mcp.repl.maps import MapNeeds, MapSupply
from rlm_mcp.repl.sandbox import Sandbox
from rlm_mcp.workspace.run_images import RunImages


class MapNotPossible(RlmError):
    """This process cannot work on a map: it has another image of the sandbox, or no memory."""


class MapWork:
    """Opens copies of sessions of one owner."""

    def __init__(self, *, store: Store, sandbox: Sandbox, images: RunImages, owner: str | None) -> None:
        self._store = store
        self._sandbox = sandbox
        self._images = images
        self._owner = owner

    def __repr__(self) -> str:
        return f"<MapWork of {self._owner!r}>"

    async def work_on(
        self,
        needs: MapNeeds,
        checkpoint: Callable[[], Awaitable[bytes | None]],
        supply: MapSupply,
        *,
        workers: int,
        seconds: float,
    ) -> None:
        """Works until the supply ends. The checkpoint is fetched when the rest is there; None: the map is over.

        Raises MapNotPossible, UnknownContext, PackagesMissing, SandboxFailed.
        """
        image = await run_in_thread(self._images.recorded, needs.packages)
        sandbox = self._sandbox.with_image(folder_of(image))
        if await sandbox.image_id() != needs.image:
            raise MapNotPossible("the code of a map waits in another version of the sandbox: use the same everywhere")
        if not sandbox.has_room(self._owner):
            raise MapNotPossible("there is no memory left for the code of a map: close REPLs, or add memory")
        contexts = await run_in_thread(lambda: [self._store.get(context_id) for context_id in needs.context_ids])
        data = await checkpoint()
        if data is not None:
            await sandbox.work_on_map(
                self._store, contexts, data, supply, workers=workers, seconds=seconds, owner=self._owner
            )
