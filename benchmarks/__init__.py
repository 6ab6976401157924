"""Speed and quality against other projects, run by hand: each script prints a table and writes JSON. See README.md."""
