"""Pages to play with: one file with pictures drawn beforehand, and an app that draws what is typed."""
