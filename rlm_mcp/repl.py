"""The async face of a sandbox session: one persistent Python namespace with the contexts in it.

Together with `workspace.py` the only file that knows `wasm_runtime`. A cell runs on a worker thread, one at a time for
a session; what the code asks of the run (`GuestCalls`) comes back to the event loop, so that many sub-calls are in
flight from one cell. Cancelling `run` interrupts the guest and the calls it waits for.
"""
