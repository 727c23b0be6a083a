/**
 * The panel of a patient's and a study's page, and the marks in Orthanc's own lists.
 * The files of this folder are one script, in one scope: see ../explorer.py.
 */

// ---- the panel of a patient's and a study's page -----------------------------------------------------------------

function emptyPanel() {
  const list = $('<ul data-role="listview" data-inset="true" data-theme="d" data-divider-theme="b">');
  const title = $('<li data-role="list-divider" class="usmed-title">').append($('<span>').text(T.title));
  return $('<div class="usmed-region">').append(list.append(title));
}

/** Put a panel where the page has its place for it, in the place of the one before; null takes it away. */
function putPanel(page, panel) {
  const place = $('#' + page + ' .ui-block-b > div').first();
  place.children('.usmed-region').remove();
  if (panel !== null) {
    place.prepend(panel);
    panel.children('ul').listview();
    dress(panel);
  }
}

function askRegion(page, path) {
  const waiting = emptyPanel();
  waiting.children('ul').append($('<li class="usmed-plain" role="status">').text(T.asking));
  putPanel(page, waiting);
  ask('GET', path, null, (answer) => showPanel(page, path, answer), (message, status) => {
    // A node that belongs to no region has no such address: then there is nothing to say.
    putPanel(page, status === 404 ? null : failedPanel(page, path, message));
  });
}

function failedPanel(page, path, message) {
  return emptyPanel().append(attention([[T.panelFailed, message]], () => askRegion(page, path)));
}

function showPanel(page, path, answer) {
  const panel = emptyPanel();
  const list = panel.children('ul');
  answer.studies.forEach((study) => {
    heard[study.StudyInstanceUID] = $.extend(heard[study.StudyInstanceUID] || {}, {
      title: study.StudyDescription, holder: study.Holder,
    });
    note(study.StudyInstanceUID, study);
  });
  if (answer.studies.length > 1) {
    list.children('.usmed-title').append(fetchAll(answer.studies.map((study) => study.StudyInstanceUID)));
  }
  answer.studies.forEach((study) => list.append(row(study.StudyInstanceUID, page)));
  if (answer.others > 0) {
    const patient = $('#study .patient-link').attr('href') || '#lookup';
    list.append($('<li class="usmed-plain">').append($('<a>').attr('href', patient).text(T.others(answer.others))));
  }
  const notice = noticeOf(answer);
  if (notice) {
    list.append($('<li class="usmed-plain">').text(notice).append(askingOf(answer, () => askRegion(page, path))));
  }
  if (answer.enrol) {
    // In a box: alone in its line jQuery Mobile would make all of the line a button.
    const enrol = link(T.enrol, 'plus', '../usmed/' + answer.enrol).attr('rel', 'external');
    list.append($('<li class="usmed-plain">').append($('<div class="usmed-enrol">').append(enrol)));
  }
  panel.append(absences(answer, () => askRegion(page, path)));
  const anything = list.children().length > 1 || panel.children().length > 1;
  putPanel(page, anything ? panel : null);
  if (list.children().length === 1) {
    list.remove();
  }
  // The rows came into the page only now.
  Object.keys(known).forEach((uid) => note(uid, {}));
  visit.starts = answer.starting ? POLLS_FOR_STARTS : 0;
  watch();
}

function noticeOf(answer) {
  return answer.notice in T.notices ? T.notices[answer.notice] : answer.message;
}

/** Return a box that names who did not answer, or null if everybody did. */
function absences(answer, again) {
  const lines = Object.keys(answer.missing).sort().map((hospital) => [T.missing(hospital), answer.missing[hospital]]);
  if (answer.hub) {
    lines.push([T.hub, answer.hub]);
  }
  if (answer.key_servers) {
    lines.push([T.keyServers, answer.key_servers]);
  }
  return lines.length ? attention(lines, again) : null;
}

/** Return a box of `[text, reason]` lines, with a button to ask again. */
function attention(lines, again) {
  const words = $('<div>');
  lines.forEach((line) => {
    words.append($('<p>').text(line[0]));
    if (line[1]) {
      words.append($('<p class="usmed-reason">').text(line[1]));
    }
  });
  const box = $('<div class="ui-bar ui-bar-e usmed-note" role="status">');
  return box.append(words, $('<div>').append(button(T.askAgain, 'c', 'refresh', again)));
}

function fetchAll(uids) {
  const place = $('<span class="usmed-all">');
  const wanted = () => uids.filter((uid) => known[uid] && known[uid].State === 'remote');
  let shown = 0;
  const update = () => {
    const count = wanted().length;
    if (count === shown) {
      return;
    }
    shown = count;
    place.empty();
    if (count > 1) {
      place.append(button(T.fetchAll(count), 'e', 'arrow-d', () => fetchStudies(wanted())));
      dress(place);
    }
  };
  uids.forEach((uid) => view(uid, place, update));
  return place.css('flex', 'none');
}

/** Return a line of the panel: one study, where it is, and what can be done. */
function row(uid, page) {
  const study = known[uid];
  const modalities = study.ModalitiesInStudy.split('\\').filter((one) => one);
  const facts = [dateOf(study)].concat(study.Instances ? T.images(study.Instances) : []);
  const standing = $('<div class="usmed-standing">');
  const line = $('<li class="usmed-row">').append(
    $('<div class="usmed-modality">').toggleClass('usmed-many', modalities.length > 1).text(modalities.join(' ') || '–'),
    $('<div class="usmed-what">').append(
      $('<h3>').text(nameOf(study)),
      $('<p>').text(facts.join(' · ')),
      $('<p class="usmed-holder">').text(study.Holder)),
    standing);
  line.attr('data-study', uid);
  let painted = '';
  view(uid, line, (now) => {
    const looks = [now.State, now.State === 'remote' && now.Arrived > 0, now.Reason, now.OrthancStudy].join('|');
    if (looks !== painted) {
      const focused = $.contains(standing[0], document.activeElement);
      fill(standing, standingOf(now, page));
      dress(standing);
      if (focused) {
        standing.find('button, a').first().focus();
      }
      painted = looks;
    }
    standing.find('.usmed-status-text').text(statusOf(now));
    standing.find('.usmed-bar').each((index, bar) => { moveBar($(bar), now); });
  });
  return line;
}

/** Return the right side of a line: the state, its bar or reason, its button. */
function standingOf(study, page) {
  const uid = study.StudyInstanceUID;
  const status = $('<span class="usmed-status">').append($('<span class="usmed-status-text">'));
  const parts = [status];
  const aimed = (element, label) => element.attr('aria-label', T.aimed(label, nameOf(study)));
  const action = (label, theme, symbol) => aimed(button(label, theme, symbol, () => fetchStudies([uid])), label);
  if (study.State === 'here') {
    status.prepend(icon('check'));
    if (page === 'patient' && study.OrthancStudy) {
      parts.push(aimed(link(T.open, 'arrow-r', '#study?uuid=' + study.OrthancStudy), T.open));
    }
  } else if (study.State === 'arriving' || study.State === 'requested') {
    parts.push(progressBar(study, nameOf(study)));
  } else if (study.State === 'remote') {
    status.addClass('usmed-quiet');
    parts.push(action(study.Arrived ? T.fetchRest : T.fetch, 'b', 'arrow-d'));
  } else {
    status.prepend(icon('alert'));
    if (study.Reason) {
      parts.push($('<p class="usmed-reason">').text(study.Reason));
    }
    parts.push(action(T.tryAgain, 'c', 'refresh'));
  }
  return parts;
}

// ---- Orthanc's own lists: a study that is not here, or not here whole, says so -----------------------------------

const formatStudy = window.FormatStudy;

window.FormatStudy = function (study, link, isReverse, includePatient) {
  const labels = study.Labels || [];
  const remote = labels.indexOf('usmed-remote') >= 0;
  const partial = !remote && (labels.indexOf('usmed-arriving') >= 0 || study.InstanceAvailability === 'NEARLINE');
  if (!remote && !partial && labels.indexOf('usmed-guest') < 0) {
    return formatStudy(study, link, isReverse, includePatient);
  }
  const uid = GetMainDicomTag(study.MainDicomTags, STUDY_INSTANCE_UID);
  const target = link && (remote || partial) ? link + '&study=' + uid : link;
  const line = formatStudy(study, target, isReverse, includePatient);
  const holder = study.HeldBy || {};
  if (remote || partial) {
    heard[uid] = {
      title: GetMainDicomTag(study.MainDicomTags, STUDY_DESCRIPTION),
      patient: GetMainDicomTag(study.PatientMainDicomTags || {}, PATIENT_NAME),
      holder: holder.Name || (heard[uid] || {}).holder,
    };
  }
  if (!known[uid]) {
    const state = remote ? 'remote' : partial ? 'arriving' : 'here';
    known[uid] = { StudyInstanceUID: uid, State: state, Arrived: 0, Instances: holder.Instances || 0, Holder: holder.Name || '' };
  }
  const mark = $('<p class="usmed-mark">');
  line.find('h3').first().after(mark);
  line.attr('data-study', uid);
  // The number of series that have come so far, or none, would read as if it were all.
  const count = line.find('.ui-li-count');
  view(uid, mark, (now) => {
    fill(mark, markOf(now));
    line.toggleClass('usmed-remote', now.State === 'remote' || now.State === 'requested');
    line.toggleClass('usmed-partial', /^(arriving|waiting|refused|failed)$/.test(now.State));
    count.toggle(now.State === 'here' && !remote && !partial);
  });
  return line;
};

function markOf(study) {
  const from = study.Holder || T.anotherHospital;
  const part = study.Instances > 0 && !study.Queued;
  const line = (symbol, text) => [$('<span class="usmed-mark-text">').append(icon(symbol), $('<span>').text(text))];
  switch (study.State) {
    case 'here': return line('check', T.markCopy(from));
    case 'remote':
      if (study.Arrived) {
        return line('alert', T.partHere(study.Arrived, study.Instances));
      }
      return line('arrow-d', T.markRemote(from, study.Instances ? T.images(study.Instances) : ''));
    case 'waiting':
      return line('alert', part ? T.markWaitingPart(from, study.Arrived, study.Instances) : T.markWaiting(from));
    case 'refused':
    case 'failed': return line('alert', T.markStopped(from));
    default: {
      const text = part ? T.markArrivingPart(from, study.Arrived, study.Instances) : T.markArriving(from);
      return line('refresh', text).concat(progressBar(study, nameOf(study)));
    }
  }
}
