/**
 * What is known of the studies elsewhere, asked of the node; and the small parts that show one.
 * The files of this folder are one script, in one scope: see ../explorer.py.
 */

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
    State: { complete: 'here', queued: 'arriving', running: 'arriving', leaving: 'refused' }[transfer.State] || transfer.State,
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
