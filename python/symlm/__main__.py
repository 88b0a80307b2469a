"""`python -m symlm`."""

import signal

if __name__ == "__main__":
    # Until the command handles signals itself nothing has begun: Ctrl-C just ends the process, without a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    from .cli import main

    raise SystemExit(main())
