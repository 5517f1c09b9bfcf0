"""The tags of TransferQueue's two partitions, in memory."""


class PromptTags:
    """What a replay buffer reads and clears; ``tags`` by partition and key."""

    def __init__(self):
        self.tags = {"train": {}, "val": {}}

    def kv_list(self, partition_id=None):
        return {p: {k: dict(tag) for k, tag in tags.items()} for p, tags in self.tags.items()}

    def kv_batch_put(self, keys, partition_id, tags, fields=None):
        self.tags[partition_id].update(zip(keys, tags, strict=True))

    def kv_clear(self, keys, partition_id):
        for key in keys:
            del self.tags[partition_id][key]
