/**
 * The patient's page, the study's page, the lookup results; taking the place of Orthanc Explorer's own.
 * The files of this folder are one script, in one scope: see ../explorer.py.
 */

// ---- the patient's page ------------------------------------------------------------------------------------------

const refreshPatient = window.RefreshPatient;

function showPatient() {
  const uuid = ($.mobile.pageData || {}).uuid;
  const again = visit !== null && visit.page === 'patient' && visit.uuid === uuid;
  if (!again) {
    enter('patient', uuid);
  }
  refreshPatient();
  if (!again && uuid) {
    askRegion('patient', '/orthanc-patients/' + encodeURIComponent(uuid));
  }
}

// ---- the study's page, which waits for a study that is not here whole --------------------------------------------

const refreshStudy = window.RefreshStudy;

function showStudy() {
  const data = $.mobile.pageData || {};
  if (visit !== null && visit.page === 'study' && visit.uuid === data.uuid) {
    // Orthanc Explorer begins with every page twice when it is loaded with that page's address.
    if (!$('#study').hasClass('usmed-away')) {
      refreshStudy();
    }
    return;
  }
  enter('study', data.uuid);
  // Orthanc would answer for an arriving study only once it is whole, and the page would stand still until then.
  let standing = { Here: true, Transfer: null, Study: {} };
  $.ajax({
    url: '../usmed/orthanc-studies/' + encodeURIComponent(data.uuid || '-') + '/arriving',
    dataType: 'json',
    async: false,
    cache: false,
    success: (answer) => { standing = answer; },
  });
  const uid = standing.Transfer !== null ? standing.Transfer.StudyInstanceUID : data.study;
  if (standing.Transfer === null && (standing.Here || !uid)) {
    const wasAway = $('#study').hasClass('usmed-away');
    $('#study').removeClass('usmed-away');
    refreshStudy();
    if (wasAway) {
      roundCorners.call($('#study'));
    }
    askRegion('study', '/orthanc-studies/' + encodeURIComponent(data.uuid || '-'));
  } else {
    putPanel('study', null);
    heard[uid] = $.extend({ title: standing.Study.StudyDescription, patient: standing.Study.PatientName }, heard[uid]);
    waitFor(uid, standing.Transfer);
  }
}

/** Show how far a study is, and open it when it is here. */
function waitFor(uid, transfer) {
  const about = heard[uid];
  const uuid = visit.uuid;
  window.currentPage = 'study';
  window.currentUuid = uuid;
  $('#study .patient-link').removeAttr('href');
  $('#study .usmed-card').remove();
  const from = $('<p>');
  const body = $('<div class="usmed-standing-wide">');
  const card = $('<div class="ui-body ui-body-d ui-corner-all ui-shadow usmed-card">').attr('data-study', uid).append(
    $('<h2>').text(about.title || T.cardTitle), $('<p class="usmed-holder">').text(about.patient || ''), from, body);
  $('#study').addClass('usmed-away').children('.ui-content').append(card);
  let painted = '';
  view(uid, card, (study) => {
    from.text(study.Holder ? T.cardFrom(study.Holder) : '');
    if (study.State === 'here') {
      openStudy(study.OrthancStudy || uuid, uuid);
      return;
    }
    const moving = /^(requested|arriving|remote)$/.test(study.State);
    const looks = [moving, study.State, study.Reason].join('|');
    if (looks !== painted) {
      fill(body, cardBody(study, moving));
      dress(body);
      painted = looks;
    }
    body.find('.usmed-status-text').text(statusOf(study));
    body.find('.usmed-bar').each((index, bar) => { moveBar($(bar), study); });
  });
  note(uid, { State: 'requested', Holder: about.holder || '', Arrived: 0, Instances: 0 });
  if (transfer !== null) {
    take(transfer);
    watch();
  } else {
    fetchStudies([uid]);
  }
}

function cardBody(study, moving) {
  const status = $('<p class="usmed-status">').append($('<span class="usmed-status-text">'));
  if (moving) {
    return [progressBar(study, nameOf(study)), status, $('<p class="usmed-hint">').text(T.cardHint), backButton()];
  }
  status.prepend(icon('alert'));
  const again = button(T.tryAgain, 'b', 'refresh', () => fetchStudies([study.StudyInstanceUID]));
  return [status, $('<p class="usmed-reason">').text(study.Reason), again, backButton()];
}

function backButton() {
  const back = link(T.back, 'back', '#lookup');
  return $.mobile.urlHistory.activeIndex > 0 ? back.attr('data-rel', 'back') : back;
}

function openStudy(uuid, shown) {
  leave();
  if (uuid === shown) {
    showStudy();
  } else {
    // Filed under the number that the patient has here, not the one that the lookup used.
    ChangePage('study', { uuid: uuid });
  }
}

// ---- lookup results ----------------------------------------------------------------------------------------------

const RESULT = '#lookup-result ul';
const formatListOfStudies = window.FormatListOfStudies;

window.FormatListOfStudies = function (targetId, alertId, countId, studies) {
  if (targetId !== RESULT) {
    formatListOfStudies(targetId, alertId, countId, studies);
    return;
  }
  enter('lookup', '');
  formatListOfStudies(targetId, alertId, countId, studies);
  askAboutLookup();
};

/** Tell who did not answer the lookup, and keep its lines up to date. */
function askAboutLookup() {
  const keys = {};
  [['PatientID', '#lookup-patient-id'], ['AccessionNumber', '#lookup-accession-number']].forEach((key) => {
    const value = $(key[1]).val();
    if (value) {
      keys[key[0]] = value;
    }
  });
  $('#lookup-result .usmed-notes').remove();
  if ($.isEmptyObject(keys)) {
    return;
  }
  const notes = $('<div class="usmed-notes">').prependTo('#lookup-result');
  ask('GET', '/region?' + $.param(keys), null, (answer) => {
    const notice = noticeOf(answer);
    if (notice) {
      const again = () => $('#lookup-submit').click();
      const words = $('<div class="ui-body ui-body-d ui-corner-all" role="status">').text(notice);
      notes.append(words.append(askingOf(answer, again)));
    }
    notes.append(absences(answer, () => $('#lookup-submit').click()));
    dress(notes);
    answer.studies.filter((study) => known[study.StudyInstanceUID]).forEach(
      (study) => note(study.StudyInstanceUID, study));
    visit.starts = answer.starting ? POLLS_FOR_STARTS : 0;
    watch();
  }, (message, status) => {
    if (status !== 404) {
      dress(notes.append(attention([[T.panelFailed, message]], () => $('#lookup-submit').click())));
    }
  });
}

/** Lists that were filled while they could not be seen lack their round corners. */
function roundCorners() {
  $('ul.ui-listview:visible', this).listview('refresh');
}

// ---- in the place of Orthanc Explorer's own ----------------------------------------------------------------------

window.RefreshPatient = showPatient;
window.RefreshStudy = showStudy;
$('#patient').die('pagebeforeshow', refreshPatient).live('pagebeforeshow', showPatient);
$('#study').die('pagebeforeshow', refreshStudy).live('pagebeforeshow', showStudy);
$('[data-role="page"]').live('pagebeforehide', leave);
$('#patient, #study').live('pageshow', roundCorners);
$(() => $('#patient, #study').addClass('usmed-page'));
