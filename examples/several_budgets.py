"""One supernet, three budgets: its training is shared, and each budget gets a network and a folder of its own."""

from nas.api import search

finished = search(device="vpu", budget_ms=[25, 30, 40], data="digits")
for target in finished.targets:
    budget, accuracy = target.result.budget, target.result.accuracy
    print(f"{budget.budget_ms:g} ms: {budget.predicted_ms:.1f} ms predicted, {accuracy.test:.1%} -> {target.folder}")
