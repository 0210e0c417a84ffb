"""The work on one video or clip: tables in, one table out. One file a stage."""
