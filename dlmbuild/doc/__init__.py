"""The `.dlm` document: YAML frontmatter and a Markdown body, read into data, every mistake at its file:line:col.

    document     parse, read, as_data, Document: start here
    header       read_header: the little that the build graph needs of a document
    names        what a document may be called, and the quantisations
    frontmatter  the `---` block; block: its YAML, with the position of every key and value
    schema       Frontmatter, Training, Export, …: the keys and what they may hold (pydantic), and what is not built
    prompt       what a system prompt may hold
    versions     what older versions wrote in another way
    body         the text below → sections: Prose, Instruction, Preference, Media
    fences       `::type#adapter key="value"::`, and what looks like it
    headers      `### Q` and the others, and the texts below them
    markers      where a section comes from
    sources      files that are part of a document
    mistakes     how all of these collect what is wrong; quotation: a line with a caret
    edits        changing a document by span; migrations: bringing it to the newest version
    compat       what the public parser reads in another way

Nothing is imported here: pydantic and ruamel.yaml load when the first frontmatter is read.
"""
