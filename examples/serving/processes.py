"""
Run a server in several forked processes
========================================

The processes share the memory of the libraries that were imported before the fork. The first one
passes signals on and replaces a process that was killed. ``web_service.py`` uses it.
"""

import asyncio
import os
import signal

SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD}


def run_forked(n_processes, serve):
    """Run the coroutine ``serve(hang_up)`` in forked processes.

    SIGHUP is passed on to all of them; ``hang_up()`` sends it. SIGINT and SIGTERM end all. A
    process that was killed is replaced. If one fails, all end. Signals wait until a process calls
    ``unblock_signals``, so that it can add its handlers first.

    Returns
    -------
    code : int
        0, or the exit status of a process that has failed.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    supervisor, processes, code = os.getpid(), set(), None

    def hang_up():
        if os.getppid() == supervisor:  # not after its end
            os.kill(supervisor, signal.SIGHUP)

    while processes or code is None:
        while code is None and len(processes) < n_processes:
            if (process := os.fork()) == 0:
                return asyncio.run(serve(hang_up))
            processes.add(process)
        passed_on = signal.sigwait(SIGNALS)
        if passed_on in (signal.SIGINT, signal.SIGTERM):
            passed_on, code = signal.SIGTERM, code or 0
        while processes and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            processes.remove(ended[0])
            if (status := os.waitstatus_to_exitcode(ended[1])) > 0:
                passed_on, code = signal.SIGTERM, status
        if passed_on != signal.SIGCHLD:
            for process in processes:
                os.kill(process, passed_on)
    return code


def unblock_signals():
    """Handle the signals from now on, also those that have been sent before."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
