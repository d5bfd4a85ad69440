from copy import deepcopy


class RayStreamingTrainer:
    def _build_prompt2_text(self, example_extra_info: dict, filled_text: str):
        """Fills in the summary of the first stage."""

        def extract_preference(response):
            return response.strip().split("</think>")[-1].strip()

        p2 = example_extra_info.get("prompt2", "")
        filled_text = extract_preference(filled_text).strip()
        if isinstance(p2, str):
            return p2.replace("Not Provided.", filled_text)
        if isinstance(p2, list):
            new_msgs = deepcopy(p2)
            for msg in new_msgs:
                msg["content"] = msg["content"].replace("Not Provided.", filled_text)
            return new_msgs
        p2_str = str(p2)
        return p2_str.replace("Not Provided.", filled_text)
