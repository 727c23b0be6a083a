/**
 * What the region panel says, in one table, and how it looks.
 * The files of this folder are one script, in one scope: see ../explorer.py.
 */

// ---- words -------------------------------------------------------------------------------------------------------

/** Every text that people read. A further language is one more entry with the same keys. */
const TEXTS = {
  en: {
    title: 'At other hospitals of the region',
    asking: 'Asking the other hospitals…',
    noDescription: 'No description',
    noDate: 'No date',
    date: (date) => date.toString('MMMM d, yyyy'),
    images: (n) => (n === 1 ? '1 image' : n + ' images'),
    of: (arrived, all) => arrived + ' of ' + all,
    fetch: 'Fetch',
    fetchRest: 'Fetch the rest',
    fetchAll: (n) => 'Fetch all ' + n,
    tryAgain: 'Try again',
    askAgain: 'Ask again',
    open: 'Open',
    back: 'Back',
    aimed: (action, study) => action + ': ' + study,

    remote: 'Not here',
    here: 'Here',
    requested: 'Asking for it…',
    queued: 'Waiting for its turn…',
    starting: 'Starting…',
    arriving: (arrived, all) => 'Arriving: ' + arrived + ' of ' + all,
    waiting: 'Interrupted. It goes on by itself.',
    waitingPart: (arrived, all) => 'Interrupted at ' + arrived + ' of ' + all + '. It goes on by itself.',
    refused: 'Refused',
    failed: 'Could not be fetched',
    partHere: (arrived, all) => 'Only ' + arrived + ' of ' + all + ' images are here',

    markRemote: (holder, images) => 'At ' + holder + (images ? ' · ' + images : '') + ' · not here yet, a click fetches it',
    markArriving: (from) => 'Arriving from ' + from + ', not whole yet',
    markArrivingPart: (from, arrived, all) => 'Arriving from ' + from + ': ' + arrived + ' of ' + all + ' images',
    markWaiting: (from) => 'Interrupted on its way from ' + from + ', not whole yet',
    markWaitingPart: (from, arrived, all) =>
      'Interrupted on its way from ' + from + ': ' + arrived + ' of ' + all + ' images are here',
    markStopped: (from) => 'Not whole: the rest did not come from ' + from,
    markCopy: (from) => 'Copy from ' + from,
    anotherHospital: 'another hospital',

    cardTitle: 'Study at another hospital',
    cardFrom: (holder) => 'From ' + holder,
    cardHint: 'It opens by itself as soon as every image is here and checked.',

    notices: {
      'no-permission':
        'This hospital has no permission from this patient to see studies of other hospitals.' +
        ' That does not tell whether there are any.',
      'several-patients': '',
    },
    missing: (hospital) => hospital + ' did not answer. Studies that it holds are missing here.',
    hub: 'The regional hub did not answer. Studies may be missing here.',
    keyServers:
      'No study of another hospital can be shown now: too few of the region\'s key servers have given their permission.',
    others: (n) => (n === 1 ? 'One more study' : n + ' more studies') + ' of this patient at other hospitals',
    panelFailed: 'The other hospitals could not be asked.',
    fetchFailed: 'The request did not get through.',

    spokenArriving: (study, percent) => study + ': ' + percent + ' % have arrived',
    spokenHere: (study) => study + ' is here',
    spokenStopped: (study, status) => study + ': ' + status,

    askPatient: 'Ask the patient',
    askPatientHint: 'The patient reads it on the region\'s portal and answers there.',
    department: 'Department',
    departmentHint: 'as the patient knows it',
    patientAsked: (when, department) => 'The patient was asked on ' + when + ' (' + department + '). Waiting for the answer.',
    patientAnswered: 'The patient has answered. There is still no permission for this hospital.',
    patientSilent: (when) => 'The patient was asked on ' + when + ' and has not answered.',
    askPatientFailed: 'The patient was not asked.',
    enrol: 'Enrol for the portal',
  },
  ro: {
    title: 'La alte spitale din regiune',
    asking: 'Se întreabă celelalte spitale…',
    noDescription: 'Fără descriere',
    noDate: 'Fără dată',
    date: (date) => new Date(date).toLocaleDateString('ro', { day: 'numeric', month: 'long', year: 'numeric' }),
    images: (n) => (n === 1 ? 'o imagine' : inRomanian(n, 'imagini')),
    of: (arrived, all) => arrived + ' din ' + all,
    fetch: 'Adu',
    fetchRest: 'Adu restul',
    fetchAll: (n) => 'Adu toate ' + n,
    tryAgain: 'Încearcă din nou',
    askAgain: 'Întreabă din nou',
    open: 'Deschide',
    back: 'Înapoi',
    aimed: (action, study) => action + ': ' + study,

    remote: 'Nu este aici',
    here: 'Aici',
    requested: 'Se cere…',
    queued: 'Își așteaptă rândul…',
    starting: 'Începe…',
    arriving: (arrived, all) => 'Sosește: ' + arrived + ' din ' + all,
    waiting: 'Întrerupt. Continuă de la sine.',
    waitingPart: (arrived, all) => 'Întrerupt la ' + arrived + ' din ' + all + '. Continuă de la sine.',
    refused: 'Refuzat',
    failed: 'Nu a putut fi adus',
    partHere: (arrived, all) => 'Aici sunt numai ' + arrived + ' din ' + inRomanian(all, 'imagini'),

    markRemote: (holder, images) => 'La ' + holder + (images ? ' · ' + images : '') + ' · încă nu este aici, un clic îl aduce',
    markArriving: (from) => 'Sosește de la ' + from + ', încă nu este întreg',
    markArrivingPart: (from, arrived, all) => 'Sosește de la ' + from + ': ' + arrived + ' din ' + inRomanian(all, 'imagini'),
    markWaiting: (from) => 'Întrerupt pe drum de la ' + from + ', încă nu este întreg',
    markWaitingPart: (from, arrived, all) =>
      'Întrerupt pe drum de la ' + from + ': aici sunt ' + arrived + ' din ' + inRomanian(all, 'imagini'),
    markStopped: (from) => 'Nu este întreg: restul nu a venit de la ' + from,
    markCopy: (from) => 'Copie de la ' + from,
    anotherHospital: 'alt spital',

    cardTitle: 'Studiu la alt spital',
    cardFrom: (holder) => 'De la ' + holder,
    cardHint: 'Se deschide de la sine când fiecare imagine este aici și verificată.',

    notices: {
      'no-permission':
        'Acest spital nu are permisiunea pacientului de a vedea studiile altor spitale.' +
        ' Aceasta nu spune dacă există vreunul.',
      'several-patients': '',
    },
    missing: (hospital) => hospital + ' nu a răspuns. Studiile pe care le are lipsesc de aici.',
    hub: 'Centrul regional nu a răspuns. Pot lipsi studii.',
    keyServers:
      'Acum nu se poate arăta niciun studiu al altui spital: prea puține servere de chei ale regiunii și-au dat acordul.',
    others: (n) => (n === 1 ? 'Încă un studiu' : 'Încă ' + inRomanian(n, 'studii')) + ' ale acestui pacient la alte spitale',
    panelFailed: 'Celelalte spitale nu au putut fi întrebate.',
    fetchFailed: 'Cererea nu a ajuns.',

    spokenArriving: (study, percent) => study + ': au sosit ' + percent + ' %',
    spokenHere: (study) => study + ' este aici',
    spokenStopped: (study, status) => study + ': ' + status,

    askPatient: 'Cere acordul pacientului',
    askPatientHint: 'Pacientul citește cererea pe portalul regiunii și răspunde acolo.',
    department: 'Secția',
    departmentHint: 'așa cum o cunoaște pacientul',
    patientAsked: (when, department) => 'Pacientul a fost întrebat la ' + when + ' (' + department + '). Se așteaptă răspunsul.',
    patientAnswered: 'Pacientul a răspuns. Acest spital încă nu are permisiune.',
    patientSilent: (when) => 'Pacientul a fost întrebat la ' + when + ' și nu a răspuns.',
    askPatientFailed: 'Pacientul nu a fost întrebat.',
    enrol: 'Înrolează la portal',
  },
};

/** Count in Romanian: 19 imagini, 20 de imagini, 101 imagini. */
function inRomanian(n, things) {
  return n + (n === 0 || (n % 100 > 0 && n % 100 < 20) ? ' ' : ' de ') + things;
}

const LANGUAGE = (navigator.language || 'en').slice(0, 2) in TEXTS ? navigator.language.slice(0, 2) : 'en';
const T = TEXTS[LANGUAGE];

// ---- looks -------------------------------------------------------------------------------------------------------

/** Colours and corners are those of Orthanc Explorer's jQuery Mobile theme. */
const STYLE = `
  .usmed-region, .usmed-notes { margin-bottom: 1.5em; }
  .usmed-region .ui-listview-inset { margin: 0; }
  .usmed-region .usmed-title { display: flex; align-items: center; gap: 1em; padding: .3em 15px; min-height: 2.1em; }
  .usmed-region .usmed-title > span { flex: 1; }
  .usmed-title .ui-btn { margin: 0; }
  .usmed-row.ui-li { display: flex; align-items: center; gap: 1em; padding: .9em 15px; }
  .usmed-row .usmed-what { flex: 1 1 0; min-width: 0; }
  .usmed-row .usmed-what .ui-li-heading { margin: 0 0 .15em; }
  .usmed-row .ui-li-heading, .usmed-row .ui-li-desc { white-space: normal; overflow: visible; overflow-wrap: anywhere; }
  .usmed-row .ui-li-desc { margin: 0; font-size: 13px; line-height: 1.45; }
  .usmed-holder { font-weight: bold; }
  .usmed-modality {
    flex: none; width: 3em; height: 3em; border-radius: .6em; display: flex; align-items: center;
    justify-content: center; text-align: center; overflow: hidden; font-weight: bold; line-height: 1.1;
    color: #fff; text-shadow: 0 1px 0 #111; background: linear-gradient(#444, #2d2d2d);
    box-shadow: 0 1px 3px rgba(0, 0, 0, .25);
  }
  .usmed-modality.usmed-many { font-size: 11px; width: 4.09em; height: 4.09em; }
  .usmed-standing {
    flex: none; width: 17em; display: flex; flex-wrap: wrap; justify-content: flex-end; align-items: center; gap: .4em .8em;
    font-size: 13px; font-weight: normal;
  }
  .usmed-standing .ui-btn, .usmed-note .ui-btn { margin: 0; }
  .usmed-standing .usmed-bar, .usmed-standing .usmed-reason { flex: 1 0 100%; margin: 0; }
  .usmed-standing .usmed-reason { text-align: right; }
  .usmed-card .ui-btn { margin: .6em .6em 0 0; }
  .usmed-status { display: inline-flex; align-items: center; gap: .45em; font-weight: bold; }
  .usmed-status.usmed-quiet { font-weight: normal; color: #555; }
  .usmed-reason { margin: .2em 0 0; font-size: 12px; line-height: 1.35; overflow-wrap: anywhere; }
  .usmed-icon.ui-icon { display: inline-block; position: static !important; margin: 0 !important; flex: none; }
  .usmed-icon.ui-icon-check { background-color: #3c8d4f; }
  .usmed-icon.ui-icon-alert { background-color: #b26a00; }
  .usmed-bar {
    height: .7em; margin-top: .4em; border-radius: 1em; overflow: hidden; background: #ddd;
    box-shadow: inset 0 1px 3px rgba(0, 0, 0, .3);
  }
  .usmed-bar > div {
    height: 100%; width: 0; border-radius: 1em; background: linear-gradient(#85bae4, #5393c5);
    transition: width .5s linear;
  }
  .usmed-bar.usmed-unknown > div { width: 30%; transition: none; animation: usmed-pass 1.6s ease-in-out infinite; }
  @keyframes usmed-pass { from { margin-left: -30%; } to { margin-left: 100%; } }
  @media (prefers-reduced-motion: reduce) {
    .usmed-bar > div { transition: none; }
    .usmed-bar.usmed-unknown > div { animation: none; margin-left: 35%; }
  }
  .usmed-note {
    display: flex; align-items: center; gap: 1em; margin-top: .8em; padding: .7em 15px; border-radius: .6em; font-weight: normal;
    font-size: 14px; line-height: 1.4;
  }
  .usmed-note .usmed-reason { opacity: .8; }
  .usmed-note > div:first-child { flex: 1; }
  .usmed-note p { margin: 0; }
  .usmed-note .usmed-reason + p { margin-top: .5em; }
  .usmed-ask { margin-top: .8em; display: flex; flex-wrap: wrap; align-items: center; gap: .5em .8em; }
  .usmed-ask p { margin: 0; flex: 1 0 100%; font-size: 14px; }
  .usmed-ask .usmed-icon { vertical-align: middle; margin-right: .2em !important; }
  .usmed-ask .usmed-reason { font-size: 12px; color: #555; }
  .usmed-ask label { display: flex; align-items: center; gap: .6em; font-size: 13px; margin: 0; }
  .usmed-ask input { font: inherit; padding: .35em .5em; border: 1px solid #999; border-radius: .3em; width: 16em; min-width: 0; }
  .usmed-ask .ui-btn, .usmed-enrol .ui-btn { margin: 0; }
  .usmed-plain.ui-li { font-weight: normal; line-height: 1.45; white-space: normal; }
  .ui-li .ui-li-desc.usmed-mark, .usmed-mark {
    white-space: normal; font-size: 13px; font-weight: bold; margin: .1em 0 1.1em;
  }
  .usmed-mark .usmed-bar { max-width: 34em; }
  .usmed-mark-text { display: flex; align-items: center; gap: .45em; }
  .usmed-remote.ui-li, .usmed-partial.ui-li { border-left: 5px solid #f7c942; }
  .usmed-card { display: none; max-width: 44em; margin: 2em auto; padding: 1.2em 1.5em 1.5em; }
  .usmed-away .usmed-card { display: block; }
  .usmed-away .ui-content > .ui-grid-a { display: none; }
  .usmed-card h2 { margin: 0 0 .2em; overflow-wrap: anywhere; }
  .usmed-card p { margin: .3em 0; line-height: 1.4; }
  .usmed-card .usmed-bar { height: 1em; margin: 1em 0 .6em; }
  .usmed-card .usmed-hint { font-size: 13px; opacity: .8; }
  .usmed-spoken { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }

  @media (max-width: 40em) {
    /* One column; what the region holds comes right behind whose page this is. */
    .usmed-page .ui-content > .ui-grid-a, .usmed-page .ui-grid-a > .ui-block-a, .usmed-page .ui-block-a > div,
    .usmed-page .ui-grid-a > .ui-block-b, .usmed-page .ui-block-b > div { display: contents; }
    .usmed-page .ui-content { display: flex; flex-direction: column; align-items: stretch; }
    .usmed-away .ui-content > .ui-grid-a { display: none; }
    .usmed-page .ui-content ul, .usmed-page .ui-content .ui-btn-up-e, .usmed-page .ui-content .switch-container,
    .usmed-page .ui-content p { order: 4; }
    .usmed-page .ui-content #patient-info, .usmed-page .ui-content #study-info { order: 1; }
    .usmed-page .ui-content .usmed-region { order: 2; margin: 1em 0; }
    .usmed-page .ui-content .ui-listview-filter, .usmed-page .ui-content #list-studies,
    .usmed-page .ui-content #list-series { order: 3; }
    .usmed-page .ui-listview-filter { margin: 0; border: 0; background: none; }
    .usmed-page .ui-header, #lookup .ui-header { display: flex; flex-wrap: wrap; justify-content: center; }
    .usmed-page .ui-header .ui-title, #lookup .ui-header .ui-title {
      order: -1; flex: 1 0 100%; box-sizing: border-box; margin: .5em 0 0; padding: 0 10px; white-space: normal;
    }
    .usmed-page .ui-header .ui-controlgroup, #lookup .ui-header .ui-controlgroup {
      position: static; margin: .4em 3px; font-size: 12px;
    }
    .usmed-row.ui-li { flex-wrap: wrap; }
    .usmed-standing { width: auto; flex: 1 0 100%; }
    .usmed-standing .usmed-status { flex: 1; }
    .usmed-standing .usmed-reason { text-align: left; }
    .usmed-note { display: block; }
    .usmed-note .ui-btn { margin-top: .6em; }
  }
`;

$('<style>').text(STYLE).appendTo('head');
