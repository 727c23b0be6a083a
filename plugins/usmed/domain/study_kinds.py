"""Kinds of study as patients know them, and the DICOM modalities that each of them means (PS3.3 C.7.3.1.1.1)."""

KINDS: dict[str, frozenset[str]] = {
    "kind-radiograph": frozenset({"CR", "DX"}),
    "kind-ct": frozenset({"CT"}),
    "kind-mr": frozenset({"MR"}),
    "kind-ultrasound": frozenset({"US"}),
    "kind-mammography": frozenset({"MG"}),
    "kind-nuclear": frozenset({"PT", "NM"}),
    "kind-angiography": frozenset({"XA", "RF"}),
}
"""By the name of the word for it. They share no modality."""

DOCUMENTS = "kind-documents"
COMPANIONS = frozenset({"SR", "PR", "KO", "SEG", "REG", "RWV"})
"""What belongs to images of any kind. A permit has to name them: it holds only for studies all of whose modalities
are permitted, and most CT studies hold a report of their dose."""

UNKNOWN = "kind-unknown"


def sorted_into_kinds(modalities: frozenset[str]) -> dict[str, list[str]]:
    """Return modalities by the kind that they are of; those of none under `UNKNOWN`."""
    kinds = {name: sorted(codes & modalities) for name, codes in {**KINDS, DOCUMENTS: COMPANIONS}.items()}
    kinds[UNKNOWN] = sorted(modalities.difference(COMPANIONS, *KINDS.values()))
    return {name: codes for name, codes in kinds.items() if codes}
