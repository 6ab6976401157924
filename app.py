"""A page where a trained model draws what is typed: python -m app; python -m app --help."""

from demo.app import main
from runtime.cli import guarded

if __name__ == "__main__":
    raise SystemExit(guarded(main))
