"""An archive of slices answered into Parquet files: what is in it, in which parts it is answered,
and what the answers look like. Research use only; not for diagnosis."""
