import random

QUESTION = "Which item fits?\x0a" + 'Answer {"selection": "[Item A / Item B]"}.\n'


def extract_preference(response):
    return response.strip().split("</think>")[-1].strip()


def _reward_template_upi(post, preference):
    chosen = post["chosen"]
    rejected = post["rejected"]
    task = post["query"]
    flag = random.randint(0, 1)
    if flag:
        responseA = chosen
        responseB = rejected
        answer = "Item A"
    else:
        responseA = rejected
        responseB = chosen
        answer = "Item B"

    # prop = f"{QUESTION}{task}{preference}"
    prop = QUESTION
    prop += f"Asked: {task}\nTaste: {preference}\n"
    prop += "A: {a!}\nB: {b!}\n".replace("{a!}", responseA).replace("{b!}", responseB)
    prop += "ONLY the selection."

    messages = [
        {"role": "system", "content": "Answer the question."},
        {"role": "user", "content": prop},
    ]

    return messages, answer
