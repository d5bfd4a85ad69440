from typing import Dict, List


class PreferenceEvaluator:
    """Asks which item fits a history."""

    def __init__(self, config):
        self.config = config
        self.tokenizer = None

    def format_prompt(
        self, prompt: str, response_a: str, response_b: str, persona: str = ""
    ) -> str:
        """Formats the question."""
        return (
            'Which item fits? {{"selection": "[Item A / Item B]"}}\n<Asked>\n{0}\n</Asked>\n<Taste>\n{taste}</Taste>\n'
            "<A>\n{1}\n</A>\n<B>\n{2}\n</B>\nONLY the selection."
        ).format(prompt, response_a, response_b, taste=persona)

    def format_profile(self, history):
        prompt_str = "\n\n".join(
            [
                f"==Recrod {idx+1}==\n{triple['query']}: {triple['chosen']}, not {triple['rejected']}"
                for idx, triple in enumerate(history)
            ]
        )
        full_text = f"""The records:\n\n{prompt_str}\n\n==End=="""

        return full_text

    def prepare_texts_for_inference(self, data: List[Dict], enable_thinking=False) -> List[str]:
        """Builds the inputs."""
        texts = []
        for item in data:
            prop = item["instruction"]
            messages = [
                {"role": "system", "content": "Answer the question."},
                {"role": "user", "content": prop},
            ]
            texts.append(self.tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=enable_thinking))
        return texts
