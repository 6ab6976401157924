"""What is shown: a page with pictures drawn beforehand, an app that draws what is typed, the documentation as a site."""
