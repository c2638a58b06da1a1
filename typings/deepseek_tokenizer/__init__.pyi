class DeepSeekTokenizer:
    def encode(self, text: str) -> list[int]: ...

ds_token: DeepSeekTokenizer
