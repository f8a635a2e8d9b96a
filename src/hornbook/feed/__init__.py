"""The feed: texts as they are made or drawn, numbered on disk, served over HTTP to trainers."""
