/**
 * Asking a patient for consent, where the region shows nothing without it.
 * The files of this folder are one script, in one scope: see ../explorer.py.
 */

// ---- asking the patient ------------------------------------------------------------------------------------------

const ANSWER_POLL_MS = 5000;
const CONSENT_TRAVELS_MS = 2500;
const DEPARTMENT = 'usmed-department';

/** Return what is offered where permission is missing, or null; `again` asks the region once more. */
function askingOf(answer, again) {
  if (!answer.ask) {
    return null;
  }
  const place = $('<div class="usmed-ask">');
  showAsking(place, answer.ask, answer.ask.Request, again);
  return place;
}

function showAsking(place, patient, request, again) {
  const state = request === null ? '' : request.State;
  const when = request === null ? '' : momentOf(request.AskedAt);
  if (state === 'open') {
    fill(place, [$('<p role="status">').append(icon('refresh'), ' ', $('<span>').text(T.patientAsked(when, request.Department)))]);
    awaitAnswer(place, patient, again);
    return;
  }
  const parts = [];
  if (state === 'answered') {
    parts.push($('<p>').text(T.patientAnswered));
  } else if (state === 'expired') {
    parts.push($('<p>').text(T.patientSilent(when)));
  }
  const input = $('<input type="text" maxlength="64" data-role="none">').attr('placeholder', T.departmentHint);
  input.val(request === null ? rememberedDepartment() : request.Department);
  const send = () => {
    const department = input.val().trim();
    if (!department) {
      input.focus();
      return;
    }
    rememberDepartment(department);
    askPatient(place, patient, department, again);
  };
  input.on('keydown', (event) => {
    if (event.which === 13) {
      send();
    }
  });
  parts.push($('<label>').append($('<span>').text(T.department), input), button(T.askPatient, 'b', 'check', send));
  parts.push($('<p class="usmed-reason">').text(T.askPatientHint));
  fill(place, parts);
  dress(place);
}

function askPatient(place, patient, department, again) {
  place.find('button').attr('disabled', 'disabled');
  const body = { PatientID: patient.PatientID, IssuerOfPatientID: patient.IssuerOfPatientID, Department: department };
  ask('POST', '/requests', body, (request) => showAsking(place, patient, request, again), (message) => {
    showAsking(place, patient, { State: '', AskedAt: '', Department: department }, again);
    place.prepend($('<p role="alert">').append(icon('alert'), ' ', $('<span>').text([T.askPatientFailed, message].join(' '))));
  });
}

/** Look now and then, as long as the page is shown, whether the patient has answered; then the region is asked again. */
function awaitAnswer(place, patient, again) {
  const mine = visit;
  const keys = { PatientID: patient.PatientID, IssuerOfPatientID: patient.IssuerOfPatientID };
  const look = () => {
    if (visit !== mine || !$.contains(document.documentElement, place[0])) {
      return;
    }
    if (document.hidden) {
      setTimeout(look, ANSWER_POLL_MS);
      return;
    }
    ask('GET', '/requests?' + $.param(keys), null, (answer) => {
      if (answer.Request === null || answer.Request.State === 'open') {
        setTimeout(look, ANSWER_POLL_MS);
      } else if (answer.Request.State === 'answered') {
        // A moment later: a consent that was given just now is on its way to the key servers.
        setTimeout(() => { if (visit === mine) again(); }, CONSENT_TRAVELS_MS);
      } else {
        showAsking(place, patient, answer.Request, again);
      }
    }, () => setTimeout(look, ANSWER_POLL_MS));
  };
  setTimeout(look, ANSWER_POLL_MS);
}

function momentOf(text) {
  return new Date(text).toLocaleString(LANGUAGE, { dateStyle: 'long', timeStyle: 'short' });
}

/** The department that asked last from this browser. */
function rememberedDepartment() {
  try {
    return localStorage.getItem(DEPARTMENT) || '';
  } catch (error) {
    return '';
  }
}

function rememberDepartment(department) {
  try {
    localStorage.setItem(DEPARTMENT, department);
  } catch (error) {
    // Without it, it is typed anew.
  }
}
