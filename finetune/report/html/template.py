"""The Jinja template of ``report.html``. Escaping is on: whatever a user named comes out as text."""

MACROS = """\
{%- macro grid(table) -%}
<div class="scroll" tabindex="0" role="region" aria-label="{{ table.label }}">
<table>
<thead><tr>
{% for cell in table.head %}
<th scope="col"{% if loop.index <= table.left %} class="text"{% endif %}>{{ cell }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
<tr><th scope="row">{{ row[0] }}</th>
{% for cell in row[1:] %}
<td{% if loop.index < table.left %} class="text"{% endif %}>{{ cell }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{%- endmacro -%}
{%- macro figures(plots) -%}
<div class="figures">
{% for plot in plots %}
<figure>
<h4>{{ plot.heading }}</h4>
{{ plot.svg }}
<figcaption>{{ plot.caption }}</figcaption>
</figure>
{% endfor %}
</div>
{%- endmacro -%}
{%- macro legend(entries) -%}
<ul class="legend">
{% for entry in entries %}
<li>{{ entry.swatch }}{{ entry.name }}</li>
{% endfor %}
</ul>
{%- endmacro -%}
{%- macro items(lines, kind="") -%}
<ul class="{{ kind }}">
{% for line in lines %}
<li>{{ line }}</li>
{% endfor %}
</ul>
{%- endmacro -%}
"""

HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{{ heading }}</title>
<style>{{ style }}</style>
</head>
<body>
<header>
<h1>{{ heading }}</h1>
<p class="answer">{{ answer }}</p>
<p class="muted">{{ state }}</p>
</header>
<main>
{% if tables|length > 1 %}
<nav aria-label="Tables"><ul class="contents">
{% for table in tables %}
<li><a href="#{{ table.key }}">{{ table.title }}</a></li>
{% endfor %}
</ul></nav>
{% endif %}
"""

SUMMARY = """\
{% if glance %}
<section id="glance">
<h2>At a glance</h2>
{{ grid(glance) }}
{% if glance_plots %}
{{ legend(legend_of_all) }}
{{ figures(glance_plots) }}
{% endif %}
</section>
{% endif %}
{% if overall %}
<section id="overall">
<h2>Over tasks</h2>
<p>{{ over_tasks }}</p>
{{ grid(overall) }}
{{ items(tasks) }}
{{ figures(overall_plots) }}
</section>
{% endif %}
"""

TABLE = """\
{% for table in tables %}
<section id="{{ table.key }}">
<h2>{{ table.title }}</h2>
{% if table.sample %}
<p class="stamp">{{ sample }}</p>
{% endif %}
{{ grid(table.main) }}
<p>{{ table.sentence }}</p>
{% for heading, lines in table.lists %}
<h3>{{ heading }}</h3>
{{ items(lines) }}
{% endfor %}
{% if table.plots %}
{{ legend(table.legend) }}
{{ figures(table.plots) }}
{% endif %}
{% if table.starts %}
<h3>Before training</h3>
<p class="muted">The swapped model before its first update, on the validation rows. Cosine: how near its
mean last hidden states are to those of the softmax model, after a cold swap and after the start that was
chosen.</p>
{{ grid(table.starts) }}
{% endif %}
{% if table.diagnostics %}
<h3>What the attention did</h3>
{{ legend(table.mechanism_legend) }}
{{ figures(table.diagnostics) }}
{% endif %}
{% if table.power %}
<h3>Each kind of noise alone, and what more seeds would show</h3>
{{ grid(table.power) }}
{% endif %}
{% if table.cost %}
<h3>Cost</h3>
{{ grid(table.cost) }}
{% for note in table.cost_notes %}
<p class="muted">{{ note[0]|upper }}{{ note[1:] }}.</p>
{% endfor %}
{% endif %}
<h3>Where this comes from</h3>
<details><summary>Data, models, hardware and statistics</summary>
{{ items(table.facts, "facts") }}
</details>
<details><summary>Every run and the command that makes it again ({{ table.runs|length }})</summary>
{% for run in table.runs %}
<details><summary>{{ run.name }}</summary>
<pre><code>{{ run.command }}</code></pre>
<p class="muted folder">{{ run.facts }}</p>
</details>
{% endfor %}
</details>
</section>
{% endfor %}
"""

FOOT = """\
{% if problems %}
<section id="problems">
<h2>Records that could not be used</h2>
{{ items(problems) }}
</section>
{% endif %}
<section id="method">
<h2>How to read this</h2>
{% for paragraph in method %}
<p>{{ paragraph }}</p>
{% endfor %}
</section>
</main>
<footer class="muted">
<p>Made from the records of the runs by softmax-finetune. The same numbers are in report.md, report.csv,
report.tex and report.json.</p>
</footer>
</body>
</html>
"""

TEMPLATE = MACROS + HEAD + SUMMARY + TABLE + FOOT
