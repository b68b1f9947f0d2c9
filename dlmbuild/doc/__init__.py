"""The `.dlm` document: YAML frontmatter and a Markdown body, read into data, every mistake at its file:line:col.

    document     parse, parse_text, as_data, Document: start here
    header       read_header: the little that the build graph needs of a document
    names        what a document may be called, and the quantisations
    frontmatter  the `---` block: where it ends, its YAML, the position of every key and value
    schema       Frontmatter, Training, Export: the keys and what they may hold (pydantic)
    fences       lines → text, code and section fences; `::type#adapter key="value"::`
    sections     lines → Prose, Instruction, Preference, Media
    mistakes     how all of these collect what is wrong

Nothing is imported here: pydantic and ruamel.yaml load when the first frontmatter is read.
"""
