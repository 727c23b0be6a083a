"""What consents say, in Romanian and in English."""

CONSENT_WORDS: dict[str, tuple[str, str]] = {
    "and": ("{first} și {last}", "{first} and {last}"),
    "end-of-day": ("sfârșitul zilei de {day}", "the end of {day}"),
    # Who.
    "any-hospital": (
        "orice spital din regiune, și oricare va mai intra în ea",
        "any hospital of the region, and any that joins it later",
    ),
    "unknown-hospital": (
        "un spital care nu mai este în regiune („{id}”)",
        "a hospital that is not in the region any more (“{id}”)",
    ),
    # The sentence that says it all.
    "may-see-any": (
        "Orice spital din regiune poate vedea {what}{when}",
        "Any hospital of the region may see {what}{when}",
    ),
    "may-see-one": ("{who} poate vedea {what}{when}", "{who} may see {what}{when}"),
    "may-see-several": ("{who} pot vedea {what}{when}", "{who} may see {what}{when}"),
    "may-not-see-any": (
        "Niciun spital din regiune nu poate vedea {what}{when}",
        "No hospital of the region may see {what}{when}",
    ),
    "may-not-see-one": ("{who} nu poate vedea {what}{when}", "{who} may not see {what}{when}"),
    "may-not-see-several": ("{who} nu pot vedea {what}{when}", "{who} may not see {what}{when}"),
    "when-emergency": (" în caz de urgență", " in an emergency"),
    "when-not-even": (", nici în caz de urgență", ", not even in an emergency"),
    "when-except": (", în afară de urgențe", ", except in emergencies"),
    "when-for": (", pentru: {purposes}", ", for: {purposes}"),
    "my-images": ("imaginile mele medicale", "my medical images"),
    "some-images": ("o parte din imaginile mele medicale", "some of my medical images"),
    # Labels of the particulars.
    "label-who-may": ("Cine poate vedea", "Who may see"),
    "label-who-may-not": ("Cine nu poate vedea", "Who may not see"),
    "label-purpose": ("Pentru ce", "What for"),
    "label-sources": ("Imagini făcute la", "Images made at"),
    "label-kinds": ("Feluri de investigații", "Kinds of study"),
    "label-dates": ("Făcute când", "Made when"),
    "label-studies": ("Numai investigațiile", "Only the studies"),
    "label-from": ("Începând cu", "From"),
    "label-until": ("Până la", "Until"),
    # Purposes.
    "purpose-treat": ("îngrijirea mea medicală", "my medical care"),
    "purpose-emergency": (
        "urgențe, când nu pot fi întrebat(ă)",
        "emergencies, when I cannot be asked",
    ),
    "purpose-research": ("cercetare medicală", "medical research"),
    "purpose-unknown": (
        "un scop pe care această pagină nu îl cunoaște („{code}”)",
        "a purpose that this page does not know (“{code}”)",
    ),
    "purpose-any": (
        "orice scop: îngrijire, urgențe, cercetare",
        "any purpose: care, emergencies, research",
    ),
    # What.
    "sources-any": ("orice spital", "any hospital"),
    "kinds-any": ("toate felurile", "all kinds"),
    "dates-any": ("oricând", "at any time"),
    "dates-between": ("de la {first} până la {last}", "from {first} to {last}"),
    "dates-since": ("{first} sau mai târziu", "{first} or later"),
    "dates-before": ("{last} sau mai devreme", "{last} or earlier"),
    "study-known": ("{study} (nr. {uid})", "{study} (no. {uid})"),
    "study-unknown": (
        "o investigație pe care regiunea nu o cunoaște (nr. {uid})",
        "a study that the region does not know (no. {uid})",
    ),
    "no-end": ("fără termen, cât timp nu îl retrag", "no end, as long as I do not take it back"),
    "nothing-said": ("Nu permite și nu interzice nimic.", "It permits nothing and forbids nothing."),
    "was-withdrawn": ("Retragerea acordului care spunea:", "This takes back what said:"),
    # Kinds of study, each with the codes that hospitals write.
    "kind-radiograph": ("radiografii ({codes})", "X-rays ({codes})"),
    "kind-ct": ("tomografii ({codes})", "CT scans ({codes})"),
    "kind-mr": ("rezonanță magnetică ({codes})", "MRI scans ({codes})"),
    "kind-ultrasound": ("ecografii ({codes})", "ultrasound ({codes})"),
    "kind-mammography": ("mamografii ({codes})", "mammograms ({codes})"),
    "kind-nuclear": ("PET și scintigrafii ({codes})", "PET and nuclear scans ({codes})"),
    "kind-angiography": ("angiografii și fluoroscopii ({codes})", "angiography and fluoroscopy ({codes})"),
    "kind-documents": (
        "notele care însoțesc imaginile ({codes})",
        "the notes that come with images ({codes})",
    ),
    "kind-unknown": (
        "un fel pe care această pagină nu îl cunoaște ({codes})",
        "a kind that this page does not know ({codes})",
    ),
}
