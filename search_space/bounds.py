"""How large, deep and slow may be what others wrote: files, and answers of servers. Every bound stands here, once.

They are far above what is in use and far below what a machine cannot carry. Not for what a value means (a kernel is
odd, a share lies between 0 and 1): that stands beside its field. Imports nothing.
"""

# ------------------------------------------------------------------ text files: spaces, profiles, runs, tables
TEXT_BYTES = 64 * 2**20
YAML_BYTES = 4 * 2**20
DEEPEST = 100  # levels within each other, of YAML and JSON
YAML_NODES = 1_000_000  # with every alias written out

# ------------------------------------------------------------------ search spaces
WIDEST = 16_384  # channels
STAGES = 64
BLOCKS = 1_024  # of a stage
KERNEL = 255  # pixels a side
RATIO = 64  # of expansion
STRIDE = 64
CANDIDATES = 256  # of a stage

# ------------------------------------------------------------------ sharded images
SHARDS = 1_000_000  # that one pattern names
INDEX_BYTES = 512 * 2**20  # of an index file
UNPACKED_BYTES = 4 * 2**30  # of its arrays, 44 bytes an image: 97 million images
LABEL_BYTES = 64  # of a .cls file

# ------------------------------------------------------------------ servers (http, https and s3; hf has its client's)
CONNECT_S = 30.0
SILENT_S = 60.0  # without a byte
SLOWEST = 10_000  # bytes a second, over more than SILENT_S
ONE_FILE_S = 4 * 3600.0
PAUSES_S = (1.0, 5.0)  # before a download is tried again
