# SPDX-License-Identifier: Apache-2.0
"""Tuning: the schedule templates' spaces, measured here or on boards, and what was found.

``tasks`` finds the distinct layers of a network, ``task_tuning`` searches the space of one of them
with a cost model, ``measurement`` builds and times candidates in processes of their own,
``records`` keeps what was measured in a MetaSchedule database and applies it.
"""
