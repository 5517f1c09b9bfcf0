"""A few processes with a gloo process group, kept for many jobs.

Importing torch, verl and Megatron takes about ten seconds; a job on a tiny model takes one. So the
processes of each world size stay, and a job is a function that all of them run.
"""

import contextlib
import multiprocessing
import os
import tempfile
import traceback

TIMEOUT = 300  # seconds; a job takes one or two


class Ranks:
    """``size`` processes; :meth:`run` calls a function in each and returns what each returned."""

    def __init__(self, size):
        context = multiprocessing.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory()  # where the ranks meet
        self.pipes, self.processes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            where = (theirs, rank, size, self.folder.name)
            # No daemon: Megatron's checkpoint starts a process of its own.
            process = context.Process(target=_serve, args=where)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def run(self, function, *args):
        for pipe in self.pipes:
            pipe.send((function, args))
        results = []
        for rank, pipe in enumerate(self.pipes):
            if not pipe.poll(TIMEOUT):
                self.close()
                raise TimeoutError(f"rank {rank} did not answer within {TIMEOUT} s")
            try:
                error, result = pipe.recv()
            except EOFError:
                self.close()
                raise RuntimeError(f"rank {rank} died") from None
            if error:
                self.close()  # the other ranks may wait in a collective for ever
                raise RuntimeError(f"rank {rank}:\n{error}")
            results.append(result)
        return results

    @property
    def alive(self):
        return all(process.is_alive() for process in self.processes)

    def close(self):
        """Ends them: a closed pipe is the sign to leave, so that they end what they started."""
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(timeout=10)
            process.kill()  # one that waits for a rank that failed
            process.join()
        self.folder.cleanup()


def _serve(pipe, rank, size, folder):
    variables = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
    os.environ |= {name: str(value) for name, value in variables.items()}
    os.environ |= {"OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}  # verl's worker reads them
    os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"  # Megatron asks for it under tensor parallelism
    import torch
    import verl  # noqa: F401 - the plugin goes before Megatron

    torch.set_num_threads(1)
    torch.distributed.init_process_group("cpu:gloo", f"file://{folder}/store", None, size, rank)
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        error = result = None
        try:
            with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
                result = function(*args)
        except BaseException:
            error = traceback.format_exc()
        pipe.send((error, result))
