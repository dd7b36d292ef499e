"""`python -m backend`: the commands of `backend.commands.cli`."""

from backend.commands.cli import main

if __name__ == "__main__":
    main()
