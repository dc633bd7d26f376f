"""What has been tuned: records, the folders that hold them, and look-up."""

from __future__ import annotations
