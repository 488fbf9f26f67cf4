// Tooltips, the charts' read-out and the gates' slider. Nothing is fetched.
"use strict";
(function () {
  var tip = document.getElementById("tip");
  function show(words, x, y) {
    tip.textContent = words;
    tip.hidden = false;
    var box = tip.getBoundingClientRect();
    tip.style.left = Math.max(8, Math.min(x + 14, innerWidth - box.width - 8)) + "px";
    tip.style.top = (y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18) + "px";
  }
  function hide() { tip.hidden = true; }

  // Tooltips: whatever carries data-tip, by pointer or keyboard.
  document.addEventListener("mousemove", function (event) {
    var at = event.target.closest("[data-tip]");
    if (at) show(at.dataset.tip, event.clientX, event.clientY);
    else if (!event.target.closest(".chart")) hide();
  });
  document.addEventListener("focusin", function (event) {
    var at = event.target.closest("[data-tip]");
    if (!at) return;
    var box = at.getBoundingClientRect();
    show(at.dataset.tip, box.left, box.bottom);
  });
  document.addEventListener("focusout", hide);
  addEventListener("scroll", hide, { passive: true });

  // Charts: a cursor at the nearest step with the value of every line there.
  function mark(name, attributes) {
    var node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (var key in attributes) node.setAttribute(key, attributes[key]);
    return node;
  }
  function scale(s, value) { return s[2] + (value - s[0]) / (s[1] - s[0]) * (s[3] - s[2]); }
  function nearest(points, step) {
    var low = 0, high = points.length - 1;
    while (high - low > 1) {
      var middle = (low + high) >> 1;
      if (points[middle][0] < step) low = middle; else high = middle;
    }
    return Math.abs(points[low][0] - step) <= Math.abs(points[high][0] - step) ? points[low] : points[high];
  }
  document.querySelectorAll(".chart").forEach(function (chart) {
    var data = JSON.parse(chart.dataset.chart), cursor = chart.querySelector(".cursor");
    chart.addEventListener("mousemove", function (event) {
      var box = chart.getBoundingClientRect();
      var x = (event.clientX - box.left) / box.width * chart.viewBox.baseVal.width;
      if (x < data.x[2] - 6 || x > data.x[3] + 6) { cursor.replaceChildren(); hide(); return; }
      var step = data.x[0] + (x - data.x[2]) / (data.x[3] - data.x[2]) * (data.x[1] - data.x[0]);
      var hits = data.lines.map(function (line) { return nearest(line[2], step); });
      var first = hits.reduce(function (a, b) { return Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a; });
      var at = scale(data.x, first[0]), words = "step " + first[0], marks = [];
      marks.push(mark("line", { x1: at, x2: at, y1: data.y[3], y2: data.y[2] }));
      hits.forEach(function (hit, i) {
        var elsewhere = hit[0] === first[0] ? "" : " (step " + hit[0] + ")";
        words += "\n" + data.lines[i][0] + " " + hit[1] + (data.unit ? " " + data.unit : "") + elsewhere;
        marks.push(mark("circle", { cx: scale(data.x, hit[0]), cy: scale(data.y, hit[1]), r: 4, "class": "dot " + data.lines[i][1] }));
      });
      cursor.replaceChildren.apply(cursor, marks);
      show(words, event.clientX, event.clientY);
    });
    chart.addEventListener("mouseleave", function () { cursor.replaceChildren(); hide(); });
  });

  // Gates: the slider redraws the heat map.
  var slider = document.getElementById("snapshot");
  if (slider) {
    var snapshots = JSON.parse(slider.dataset.snapshots), output = document.querySelector(".slider output");
    var cells = document.querySelectorAll("[data-gate]");
    slider.addEventListener("input", function () {
      var snapshot = snapshots[+slider.value];
      output.textContent = "step " + snapshot[0];
      cells.forEach(function (cell) {
        var place = cell.dataset.gate.split(","), p = snapshot[1][+place[0]][+place[1]];
        cell.setAttribute("fill-opacity", p);
        cell.dataset.tip = cell.dataset.name + "\nprobability " + p.toFixed(3);
      });
    });
  }
})();
