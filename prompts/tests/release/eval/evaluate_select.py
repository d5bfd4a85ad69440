from typing import Dict, List


class PreferenceEvaluator:
    """Asks which item fits."""

    def __init__(self, config):
        self.config = config
        self.tokenizer = None
        self.system_prompt = ""

    def format_prompt(
        self, prompt: str, response_a: str, response_b: str, persona: str = ""
    ) -> str:
        """Formats the question."""
        return (
            f"Which item fits? "
            f'{{"selection": "[Item A / Item B]"}}\n'
            # f"{self.system_prompt}\n"
            f"<Asked>\n{prompt}\n</Asked>\n"
            f"<Taste>\n{persona}</Taste>\n"
            f"<A>\n{response_a}\n</A>\n"
            f"<B>\n{response_b}\n</B>\n"
            f"ONLY the selection."
        )

    def prepare_texts_for_inference(self, data: List[Dict]) -> List[str]:
        """Builds the inputs."""
        texts = []

        for item in data:
            prop = item["instruction"]

            messages = [
                {"role": "system", "content": "Answer the question."},
                {"role": "user", "content": prop},
            ]

            text = self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )

            texts.append(text)

        return texts
