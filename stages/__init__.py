"""The work on one video or clip: tables in, tables out. One file a stage."""
