"""One product alone, followed step by step in compiled code: what mappings are judged by."""
