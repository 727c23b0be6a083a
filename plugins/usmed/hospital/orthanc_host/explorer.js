/**
 * What Orthanc Explorer shows of the region: on a patient's and a study's page who holds what and where it stands, in
 * lookup results which studies are elsewhere, and, while a study is on its way, how far it is. Orthanc Explorer loads
 * this file behind its own (jQuery 1.7, jQuery Mobile 1.1); nothing here asks the server on any other page.
 *
 * Names and descriptions come from other hospitals: they reach the page as text, never as HTML.
 */
(function ($) {
  'use strict';

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
      others: (n) => (n === 1 ? 'One more study' : n + ' more studies') + ' of this patient at other hospitals',
      panelFailed: 'The other hospitals could not be asked.',
      fetchFailed: 'The request did not get through.',

      spokenArriving: (study, percent) => study + ': ' + percent + ' % have arrived',
      spokenHere: (study) => study + ' is here',
      spokenStopped: (study, status) => study + ': ' + status,
    },
  };

  const T = TEXTS[(navigator.language || 'en').slice(0, 2)] || TEXTS.en;

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

  // ---- what is known, and the page that shows it -------------------------------------------------------------------

  const POLL_FIRST_MS = 300;
  const POLL_MS = 700;
  const POLL_IDLE_MS = 5000;

  /** How often a page looks whether the node has begun by itself to fetch what the lookup found; the first are quick. */
  const POLLS_FOR_STARTS = 12;
  const SLOW_POLLS_FOR_STARTS = 8;

  /** Studies of the page that is shown, by Study Instance UID: as the panel gave them, kept up to date by transfers. */
  let known = {};

  /** What repaints itself when a study changes: `{uid, node, update(study)}`. */
  let views = [];

  /** The page that is shown, if it is one of ours: `{page, uuid, requests, timer, starts}`. */
  let visit = null;

  /** Whose and what a study elsewhere is, for the page that waits for it; kept while Orthanc Explorer stays loaded. */
  const heard = {};

  function enter(page, uuid) {
    leave();
    visit = { page: page, uuid: uuid, requests: [], timer: null, starts: 0 };
  }

  /** Stop everything that the page had under way. */
  function leave() {
    const left = visit;
    visit = null;
    known = {};
    views = [];
    if (left !== null) {
      clearTimeout(left.timer);
      left.requests.forEach((request) => request.abort());
    }
  }

  /** Ask the node; `done` and `failed(message, status)` are called only if the page is still shown then. */
  function ask(method, path, body, done, failed) {
    const mine = visit;
    const request = $.ajax({
      url: '../usmed' + path,
      type: method,
      data: body === null ? undefined : JSON.stringify(body),
      contentType: 'application/json',
      dataType: 'json',
      cache: false,
    });
    mine.requests.push(request);
    request
      .always(() => { mine.requests = mine.requests.filter((one) => one !== request); })
      .done((answer) => { if (visit === mine) done(answer); })
      .fail((xhr) => { if (visit === mine) failed(reasonOf(xhr), xhr.status); });
  }

  function reasonOf(xhr) {
    try {
      return String(JSON.parse(xhr.responseText).message || '');
    } catch (error) {
      return '';
    }
  }

  /** Take what a transfer says about a study. */
  function take(transfer) {
    const uid = transfer.StudyInstanceUID;
    const before = known[uid] || {};
    if (transfer.State === 'complete' && before.State === 'remote' && transfer.Instances < before.Instances) {
      // An earlier transfer: the holder has got more images since.
      return;
    }
    note(uid, {
      State: { complete: 'here', queued: 'arriving', running: 'arriving' }[transfer.State] || transfer.State,
      Queued: transfer.State === 'queued',
      Arrived: transfer.Arrived || 0,
      Instances: transfer.Instances || before.Instances || 0,
      Reason: transfer.Reason || '',
      Holder: transfer.SourceName || before.Holder || '',
      OrthancStudy: transfer.OrthancStudy || before.OrthancStudy || '',
    });
  }

  /** Remember what is new about a study, and show it wherever the study stands on this page. */
  function note(uid, news) {
    const before = known[uid] || {};
    const study = (known[uid] = $.extend({ StudyInstanceUID: uid }, before, news));
    views = views.filter((view) => $.contains(document.documentElement, view.node[0]));
    views.filter((view) => view.uid === uid).forEach((view) => view.update(study));
    announce(before, study);
  }

  /** Show a study in `node`, now and whenever something new is known about it. */
  function view(uid, node, update) {
    views.push({ uid: uid, node: node, update: update });
    if (known[uid]) {
      update(known[uid]);
    }
  }

  /** Ask again and again about what is on its way, until all has come or the page is left. */
  function watch(failed) {
    const mine = visit;
    const watched = mine !== null && mine.starts > 0 ? /^(arriving|waiting|remote)$/ : /^(arriving|waiting)$/;
    const moving = Object.keys(known).filter((uid) => watched.test(known[uid].State));
    if (mine === null || mine.timer !== null || moving.length === 0) {
      return;
    }
    const arriving = moving.filter((uid) => known[uid].State === 'arriving'
      || (known[uid].State === 'remote' && mine.starts > SLOW_POLLS_FOR_STARTS));
    const pace = failed || document.hidden || arriving.length === 0 ? POLL_IDLE_MS
      : arriving.some((uid) => known[uid].Queued) ? POLL_FIRST_MS : POLL_MS;
    mine.timer = setTimeout(() => {
      const next = (unanswered) => {
        mine.timer = null;
        watch(unanswered);
      };
      mine.starts -= 1;
      ask('GET', '/transfers?studies=' + encodeURIComponent(moving.join(',')), null, (transfers) => {
        transfers.forEach(take);
        // The last of them may have opened another page.
        if (visit === mine) {
          if (moving.some((uid) => known[uid].State === 'here')) {
            arrived();
          }
          next(false);
        }
      }, () => next(true));
    }, pace);
  }

  /** Something that was on its way is here: Orthanc's own part of the page does not know it yet. */
  function arrived() {
    if (visit.page === 'patient') {
      refreshPatient();
    } else if (visit.page === 'study') {
      refreshStudy();
    }
  }

  /** Fetch studies: shown at once as asked for, asked for one after the other. */
  function fetchStudies(uids) {
    uids.forEach((uid) => note(uid, { State: 'requested', Reason: '' }));
    const next = (rest) => {
      if (rest.length > 0) {
        ask('POST', '/fetch', { StudyInstanceUID: rest[0] }, (answer) => {
          take(answer);
          watch();
          next(rest.slice(1));
        }, (message) => {
          note(rest[0], { State: 'failed', Reason: message || T.fetchFailed });
          next(rest.slice(1));
        });
      }
    };
    next(uids);
  }

  // ---- small parts -------------------------------------------------------------------------------------------------

  function button(label, theme, icon, action) {
    const element = $('<button type="button">').text(label).attr({ 'data-theme': theme, 'data-icon': icon });
    element.attr({ 'data-mini': 'true', 'data-inline': 'true' }).on('click', action);
    return element;
  }

  function link(label, icon, href) {
    return $('<a>').text(label).attr({
      href: href, 'data-role': 'button', 'data-theme': 'c', 'data-icon': icon, 'data-mini': 'true', 'data-inline': 'true',
    });
  }

  /** Let jQuery Mobile dress the buttons in `node`. */
  function dress(node) {
    node.find('button').button();
    node.find('a[data-role=button]').buttonMarkup();
  }

  function fill(node, parts) {
    node.empty();
    parts.forEach((part) => node.append(part));
  }

  function icon(name) {
    return $('<span aria-hidden="true">').addClass('ui-icon ui-icon-shadow ui-icon-' + name + ' usmed-icon');
  }

  function progressBar(study, label) {
    const bar = $('<div class="usmed-bar" role="progressbar" aria-valuemin="0">').attr('aria-label', label);
    return moveBar(bar.append($('<div>')), study);
  }

  function moveBar(bar, study) {
    const measured = study.Instances > 0 && !study.Queued && study.State !== 'requested';
    bar.toggleClass('usmed-unknown', !measured);
    if (measured) {
      bar.attr({ 'aria-valuemax': study.Instances, 'aria-valuenow': study.Arrived });
      bar.children().css('width', (100 * study.Arrived) / study.Instances + '%');
    } else {
      bar.removeAttr('aria-valuenow').children().css('width', '');
    }
    return bar;
  }

  function dateOf(study) {
    const date = study.StudyDate ? ParseDicomDate(study.StudyDate) : null;
    return date === null ? T.noDate : T.date(date);
  }

  function nameOf(study) {
    return study.StudyDescription || (heard[study.StudyInstanceUID] || {}).title || T.noDescription;
  }

  /** Return what a study's state is in words. */
  function statusOf(study) {
    const some = study.Instances > 0;
    switch (study.State) {
      case 'here': return T.here;
      case 'requested': return T.requested;
      case 'arriving':
        return study.Queued ? T.queued : some ? T.arriving(study.Arrived, study.Instances) : T.starting;
      case 'waiting': return study.Arrived && some ? T.waitingPart(study.Arrived, study.Instances) : T.waiting;
      case 'refused': return T.refused;
      case 'failed': return T.failed;
      default: return study.Arrived ? T.partHere(study.Arrived, study.Instances) : T.remote;
    }
  }

  const spoken = $('<div class="usmed-spoken" role="status" aria-live="polite">');
  $(() => spoken.appendTo('body'));

  /** Tell people who do not see the bar: when it stops, and at every quarter. */
  function announce(before, study) {
    const quarter = (one) => (one.Instances ? Math.floor((4 * (one.Arrived || 0)) / one.Instances) : 0);
    if (!before.State) {
      return;
    }
    if (study.State !== before.State && study.State !== 'requested') {
      if (study.State === 'here') {
        spoken.text(T.spokenHere(nameOf(study)));
      } else {
        spoken.text(T.spokenStopped(nameOf(study), statusOf(study)));
      }
    } else if (study.State === 'arriving' && quarter(study) > quarter(before)) {
      spoken.text(T.spokenArriving(nameOf(study), 25 * quarter(study)));
    }
  }

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
      list.append($('<li class="usmed-plain">').text(notice));
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
        notes.append($('<div class="ui-body ui-body-d ui-corner-all" role="status">').text(notice));
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
})(jQuery);
