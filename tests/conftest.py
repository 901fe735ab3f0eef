import os
import sys
from pathlib import Path

# tiny models gain nothing from threads, and threads of several processes wait for each other; children inherit it
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))
