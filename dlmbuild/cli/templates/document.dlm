---
# The document's identity. It survives renaming and moving; never copy it to another document.
dlm_id: {dlm_id}
dlm_version: {dlm_version}
# The pretrained model that this document is taught to. `smollm2-135m` is small enough for any machine.
base_model: {base_model}
---

# What this document is about

Prose is read from the first word to the last. Write it as you would for a colleague.

::instruction::
### Q
What is this document about?

### A
It is about whatever you write here.

### Q
How do I teach the model another answer?

### A
Add a question under "### Q" and its answer under "### A", then run doit again.
