/** Whoever is not logged in, or not any more, goes to the log-in page and comes back to where they were. */

let askingWhoIsHere = false;

function toLogIn() {
  if (askingWhoIsHere) {
    return;
  }
  askingWhoIsHere = true;
  // 403 is also the answer to a role that may not: only somebody who is nobody is sent away.
  $.ajax({ url: '../usmed/session', dataType: 'json', cache: false, global: false }).done((here) => {
    askingWhoIsHere = false;
    if (here.Page && !here.LoggedIn) {
      window.location.assign('../usmed/log-in?next=' + encodeURIComponent('app/explorer.html' + window.location.hash));
    }
  }).fail(() => { askingWhoIsHere = false; });
}

$(document).ajaxError((event, answer) => {
  if (answer.status === 403) {
    toLogIn();
  }
});
